#include "client/load/load_report_builder.h"

#include <cmath>
#include <string>

namespace sparseserve {
namespace {

using client_load::ClassReport;
using client_load::LoadReport;
using client_load::ServerComparison;
using client_load::Times;

// By EndKind.
constexpr absl::string_view kKindNames[] = {
    "finished", "refused", "expired", "cancelled", "interrupted", "failed"};

void SetTimes(const LatencyHistogram& from, Times& to) {
  to.set_count(from.count());
  if (from.count() == 0) return;
  to.set_mean_s(absl::ToDoubleSeconds(from.Mean()));
  to.set_p50_s(absl::ToDoubleSeconds(from.Quantile(0.5)));
  to.set_p90_s(absl::ToDoubleSeconds(from.Quantile(0.9)));
  to.set_p95_s(absl::ToDoubleSeconds(from.Quantile(0.95)));
  to.set_p99_s(absl::ToDoubleSeconds(from.Quantile(0.99)));
  to.set_max_s(absl::ToDoubleSeconds(from.Max()));
}

double PerSecond(int64_t count, absl::Duration elapsed) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

void SetCounts(const LoadTally& from, ClassReport& to) {
  to.set_requests(from.ended);
  to.set_finished(from.count(EndKind::kFinished));
  to.set_refused(from.count(EndKind::kRefused));
  to.set_expired(from.count(EndKind::kExpired));
  to.set_cancelled(from.count(EndKind::kCancelled));
  to.set_interrupted(from.count(EndKind::kInterrupted));
  to.set_failed(from.count(EndKind::kFailed));
  for (size_t kind = 0; kind < from.reasons.size(); ++kind) {
    for (const auto& [reason, count] : from.reasons[kind]) {
      client_load::Reason& entry = *to.add_reasons();
      entry.set_outcome(std::string(kKindNames[kind]));
      entry.set_reason(reason);
      entry.set_count(count);
    }
  }
}

void SetClass(const LoadTally& from, absl::Duration elapsed, ClassReport& to) {
  SetCounts(from, to);
  to.set_met(from.met);
  to.set_missed(from.missed);
  if (const int64_t judged = from.met + from.missed; judged > 0) {
    to.set_attainment(static_cast<double>(from.met) /
                      static_cast<double>(judged));
  }
  to.set_requests_per_s(PerSecond(from.ended, elapsed));
  to.set_goodput_requests_per_s(PerSecond(from.met, elapsed));
  to.set_output_tokens_per_s(PerSecond(from.output_tokens, elapsed));
  to.set_goodput_tokens_per_s(PerSecond(from.met_output_tokens, elapsed));
  to.set_prompt_tokens(from.prompt_tokens);
  to.set_cached_prompt_tokens(from.cached_prompt_tokens);
  to.set_output_tokens(from.output_tokens);
  SetTimes(from.first_token, *to.mutable_time_to_first_token());
  SetTimes(from.inter_token, *to.mutable_inter_token());
  SetTimes(from.per_output_token, *to.mutable_time_per_output_token());
  SetTimes(from.total, *to.mutable_total());
}

}  // namespace

bool GeneratorLagged(const LatencyHistogram& lag) {
  return lag.count() > 0 && lag.Quantile(0.99) > absl::Milliseconds(10);
}

LoadReport BuildLoadReport(const LoadRecorder& recorder,
                           absl::Duration elapsed) {
  LoadReport report;
  report.set_elapsed_s(absl::ToDoubleSeconds(elapsed));
  SetTimes(recorder.lag(), *report.mutable_generator_lag());
  report.set_generator_lagged(GeneratorLagged(recorder.lag()));
  SetClass(recorder.all(), elapsed, *report.mutable_all());
  report.mutable_all()->set_name("all");
  for (size_t i = 0; i < recorder.classes().size(); ++i) {
    ClassReport& to = *report.add_classes();
    SetClass(recorder.of_class(i), elapsed, to);
    to.set_name(recorder.classes()[i].name);
  }
  return report;
}

ServerComparison BuildServerComparison(
    const absl::StatusOr<std::vector<ComparedQuantile>>& compared) {
  ServerComparison comparison;
  if (!compared.ok()) {
    comparison.set_error(std::string(compared.status().message()));
    return comparison;
  }
  comparison.set_agrees(true);
  for (const ComparedQuantile& from : *compared) {
    ServerComparison::Quantile& to = *comparison.add_quantiles();
    to.set_metric(from.metric);
    to.set_share(from.share);
    to.set_client_s(from.client_seconds);
    to.set_server_above_s(from.server_above_seconds);
    if (std::isfinite(from.server_at_most_seconds)) {
      to.set_server_at_most_s(from.server_at_most_seconds);
    }
    to.set_client_count(from.client_count);
    to.set_server_count(from.server_count);
    to.set_agrees(from.agrees);
    to.set_counts_agree(from.counts_agree);
    if (!from.agrees) comparison.set_agrees(false);
  }
  return comparison;
}

}  // namespace sparseserve
