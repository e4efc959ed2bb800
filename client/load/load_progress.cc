#include "client/load/load_progress.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/load/load_report_text.h"

namespace sparseserve {
namespace {

constexpr int kBarWidth = 10;

std::string Percentiles(const LatencyHistogram& times) {
  if (times.count() == 0) return "-";
  const auto format = [&times](double share) {
    return FormatSeconds(absl::ToDoubleSeconds(times.Quantile(share)));
  };
  return absl::StrCat(format(0.5), " / ", format(0.95), " / ", format(0.99));
}

std::string Attainment(const LoadTally& tally) {
  const int64_t judged = tally.met + tally.missed;
  if (judged == 0) return "-";
  return absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(tally.met) /
                                        static_cast<double>(judged));
}

double Goodput(const LoadProgress& progress) {
  const double seconds = absl::ToDoubleSeconds(progress.elapsed);
  return seconds > 0
             ? static_cast<double>(progress.recorder.all().met) / seconds
             : 0;
}

// Neither finished nor ended by the client.
int64_t Unserved(const LoadTally& tally) {
  return tally.count(EndKind::kRefused) + tally.count(EndKind::kExpired) +
         tally.count(EndKind::kFailed);
}

}  // namespace

ProgressText::Rates ProgressText::TakeRates(const LoadProgress& progress) {
  const LoadTally& all = progress.recorder.all();
  const double seconds =
      absl::ToDoubleSeconds(progress.elapsed - last_elapsed_);
  Rates rates;
  if (seconds > 0) {
    rates.requests = static_cast<double>(all.ended - last_ended_) / seconds;
    rates.tokens =
        static_cast<double>(all.output_tokens - last_tokens_) / seconds;
  }
  last_elapsed_ = progress.elapsed;
  last_ended_ = all.ended;
  last_tokens_ = all.output_tokens;
  return rates;
}

std::string ProgressText::Done(const LoadProgress& progress) const {
  double share = -1;
  if (duration_ < absl::InfiniteDuration()) {
    share = absl::FDivDuration(progress.elapsed, duration_);
  }
  if (requests_ > 0) {
    share = std::max(share, static_cast<double>(progress.sent) /
                                static_cast<double>(requests_));
  }
  if (share < 0) return "";
  share = std::clamp(share, 0.0, 1.0);
  const auto full = static_cast<size_t>(share * kBarWidth);
  return absl::StrFormat("[%s%s] %3.0f %%  ", std::string(full, '#'),
                         std::string(kBarWidth - full, '.'), 100 * share);
}

std::string ProgressText::Lines(const LoadProgress& progress) {
  const LoadTally& all = progress.recorder.all();
  const Rates rates = TakeRates(progress);
  return absl::StrFormat(
      "%s%.0f s  %.2f requests/s, %.1f tokens/s\n"
      "%d sent, %d in flight, %d finished, %d refused or failed\n"
      "attained %s, goodput %.3f requests/s\n"
      "first token p50 / p95 / p99     %s\n"
      "between tokens p50 / p95 / p99  %s\n",
      Done(progress), absl::ToDoubleSeconds(progress.elapsed), rates.requests,
      rates.tokens, progress.sent, progress.in_flight,
      all.count(EndKind::kFinished), Unserved(all), Attainment(all),
      Goodput(progress), Percentiles(all.first_token),
      Percentiles(all.inter_token));
}

std::string ProgressText::Line(const LoadProgress& progress) {
  const LoadTally& all = progress.recorder.all();
  const Rates rates = TakeRates(progress);
  return absl::StrFormat(
      "%.0f s: %d sent, %d in flight, %d finished, %d refused or failed, %.2f "
      "requests/s, %.1f tokens/s, first token %s, between tokens %s, attained "
      "%s, goodput %.3f/s\n",
      absl::ToDoubleSeconds(progress.elapsed), progress.sent,
      progress.in_flight, all.count(EndKind::kFinished), Unserved(all),
      rates.requests, rates.tokens, Percentiles(all.first_token),
      Percentiles(all.inter_token), Attainment(all), Goodput(progress));
}

}  // namespace sparseserve
