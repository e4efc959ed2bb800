#include "server/console/service_history.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

constexpr absl::Duration kMinute = absl::Minutes(1);
constexpr absl::Duration kShortly = absl::Seconds(5);
constexpr size_t kFallbacks = 20;

double Ratio(double part, double whole) {
  return whole > 0 ? part / whole : std::numeric_limits<double>::quiet_NaN();
}

double SumOf(const CountsBy& counts) {
  double sum = 0;
  for (const auto& [key, value] : counts) sum += value;
  return sum;
}

}  // namespace

void ServiceHistory::Add(absl::Time now, const ServiceState& state,
                         ServiceTotals totals) {
  if (!minute_.empty()) AddFallbacks(now, totals);
  minute_.push_back({now, std::move(totals)});
  // One that is a minute old stays, to count from.
  while (minute_.size() > 1 && minute_[1].time <= now - kMinute) {
    minute_.pop_front();
  }
  AddPoint(now, state, minute_.back().totals);
}

ServiceHistory::Period ServiceHistory::LastMinute(
    absl::Time now, const ServiceTotals& totals) const {
  if (minute_.empty()) return {absl::ZeroDuration(), {}};
  const Moment& from = Before(now, kMinute);
  return {now - from.time, totals.Since(from.totals)};
}

const ServiceHistory::Moment& ServiceHistory::Before(absl::Time now,
                                                     absl::Duration age) const {
  SPARSESERVE_DCHECK(!minute_.empty());
  const auto after =
      std::find_if(minute_.begin(), minute_.end(),
                   [&](const Moment& m) { return m.time > now - age; });
  return after == minute_.begin() ? minute_.front() : *std::prev(after);
}

void ServiceHistory::AddPoint(absl::Time now, const ServiceState& state,
                              const ServiceTotals& totals) {
  const Moment& from = Before(now, kShortly);
  const ServiceTotals shortly = totals.Since(from.totals);
  const double seconds = absl::ToDoubleSeconds(now - from.time);
  const auto& [prompts, output] = shortly.phases;
  const double steps =
      prompts.step_seconds.Count() + output.step_seconds.Count();
  const Distribution first_token =
      LastMinute(now, totals).added.time_to_first_token;
  points_.push_back({
      .running = state.running,
      .waiting = state.waiting,
      .output_tokens_per_second = Ratio(shortly.generation_tokens, seconds),
      .prompt_tokens_per_second = Ratio(SumOf(shortly.prompt_tokens), seconds),
      .output_tokens_per_step = Ratio(output.batch_tokens.sum, steps),
      .prompt_tokens_per_step = Ratio(prompts.batch_tokens.sum, steps),
      .first_token_p50 = first_token.Quantile(.5),
      .first_token_p95 = first_token.Quantile(.95),
  });
  if (points_.size() > kPoints) points_.pop_front();
}

void ServiceHistory::AddFallbacks(absl::Time now, const ServiceTotals& totals) {
  constexpr std::array<const char*, kPhases> kPhaseNames = {"prefill",
                                                            "decode"};
  const ServiceTotals added = totals.Since(minute_.back().totals);
  for (int p = 0; p < kPhases; ++p) {
    for (const auto& [reason, requests] : added.phases[p].fallbacks) {
      if (requests > 0) {
        fallbacks_.push_front({now, kPhaseNames[p], reason, requests});
      }
    }
  }
  while (fallbacks_.size() > kFallbacks) fallbacks_.pop_back();
}

}  // namespace sparseserve
