#include "server/console/service_totals.h"

#include "absl/strings/string_view.h"

namespace sparseserve {
namespace {

constexpr std::array<absl::string_view, kPhases> kPhaseLabels = {"prefill",
                                                                 "decode"};

CountsBy SumBy(const MetricsSnapshot& metrics, absl::string_view family,
               absl::string_view label) {
  CountsBy counts;
  for (const MetricsSnapshot::Series& series : metrics.Family(family)) {
    counts[std::string(series.Label(label))] += series.value;
  }
  return counts;
}

// The requests that generate: others have no first token to wait for.
Distribution GenerationTime(const MetricsSnapshot& metrics) {
  Distribution sum;
  for (const MetricsSnapshot::Series& series :
       metrics.Family("sparseserve_request_duration_seconds")) {
    const absl::string_view operation = series.Label("operation");
    if (operation == "generate" || operation == "stream_generate") {
      sum += series.distribution;
    }
  }
  return sum;
}

void AddTarget(const MetricsSnapshot::Series& series,
               ServiceTotals::Targets& targets) {
  (series.Label("outcome") == "met" ? targets.met : targets.missed) +=
      series.value;
}

void ReadPlans(const MetricsSnapshot& metrics, ServiceTotals& totals) {
  const auto plan =
      [&totals](const MetricsSnapshot::Series& series) -> ServiceTotals::Plan& {
    return totals.plans[std::string(series.Label("plan"))];
  };
  for (const auto& series : metrics.Family("sparseserve_plan_requests_total")) {
    for (int p = 0; p < kPhases; ++p) {
      if (series.Label("phase") == kPhaseLabels[p]) {
        plan(series).requests[p] += series.value;
      }
    }
  }
  for (const auto& series : metrics.Family("sparseserve_plan_targets_total")) {
    AddTarget(series, plan(series).targets);
  }
  for (const auto& series :
       metrics.Family("sparseserve_guard_demotions_total")) {
    plan(series).demotions += series.value;
  }
}

// The series of `family` in one phase.
template <typename Take>
void EachOfPhase(const MetricsSnapshot& metrics, absl::string_view family,
                 int phase, const Take& take) {
  for (const MetricsSnapshot::Series& series : metrics.Family(family)) {
    if (series.Label("phase") == kPhaseLabels[phase]) take(series);
  }
}

ServiceTotals::PhaseTotals ReadPhase(const MetricsSnapshot& metrics,
                                     int phase) {
  using Series = MetricsSnapshot::Series;
  ServiceTotals::PhaseTotals totals;
  const auto add_to = [](Distribution& sum) {
    return [&sum](const Series& series) { sum += series.distribution; };
  };
  EachOfPhase(metrics, "sparseserve_engine_step_seconds", phase,
              add_to(totals.step_seconds));
  EachOfPhase(metrics, "sparseserve_batch_requests", phase,
              add_to(totals.batch_requests));
  EachOfPhase(metrics, "sparseserve_batch_tokens", phase,
              add_to(totals.batch_tokens));
  EachOfPhase(metrics, "sparseserve_attention_blocks_total", phase,
              [&totals](const Series& series) {
                (series.Label("outcome") == "computed"
                     ? totals.computed_blocks
                     : totals.skipped_blocks) += series.value;
              });
  EachOfPhase(metrics, "sparseserve_attention_heads_total", phase,
              [&totals](const Series& series) {
                totals.heads[std::string(series.Label("pattern"))] +=
                    series.value;
              });
  EachOfPhase(metrics, "sparseserve_sparse_fallbacks_total", phase,
              [&totals](const Series& series) {
                totals.fallbacks[std::string(series.Label("reason"))] +=
                    series.value;
              });
  return totals;
}

double Difference(double now, double earlier) { return now - earlier; }
Distribution Difference(const Distribution& now, const Distribution& earlier) {
  return now.Since(earlier);
}
ServiceTotals::Targets Difference(const ServiceTotals::Targets& now,
                                  const ServiceTotals::Targets& earlier) {
  return {now.met - earlier.met, now.missed - earlier.missed};
}
ServiceTotals::Plan Difference(const ServiceTotals::Plan& now,
                               const ServiceTotals::Plan& earlier) {
  ServiceTotals::Plan added;
  for (int p = 0; p < kPhases; ++p) {
    added.requests[p] = now.requests[p] - earlier.requests[p];
  }
  added.targets = Difference(now.targets, earlier.targets);
  added.demotions = now.demotions - earlier.demotions;
  return added;
}
template <typename T>
std::map<std::string, T> Difference(const std::map<std::string, T>& now,
                                    const std::map<std::string, T>& earlier) {
  std::map<std::string, T> added;
  for (const auto& [key, value] : now) {
    const auto before = earlier.find(key);
    added[key] =
        Difference(value, before == earlier.end() ? T() : before->second);
  }
  return added;
}
ServiceTotals::PhaseTotals Difference(
    const ServiceTotals::PhaseTotals& now,
    const ServiceTotals::PhaseTotals& earlier) {
  return {
      .step_seconds = now.step_seconds.Since(earlier.step_seconds),
      .batch_requests = now.batch_requests.Since(earlier.batch_requests),
      .batch_tokens = now.batch_tokens.Since(earlier.batch_tokens),
      .computed_blocks = now.computed_blocks - earlier.computed_blocks,
      .skipped_blocks = now.skipped_blocks - earlier.skipped_blocks,
      .heads = Difference(now.heads, earlier.heads),
      .fallbacks = Difference(now.fallbacks, earlier.fallbacks),
  };
}

}  // namespace

ServiceTotals ServiceTotals::Since(const ServiceTotals& earlier) const {
  ServiceTotals added;
  const auto take = [&](auto member) {
    added.*member = Difference(this->*member, earlier.*member);
  };
  take(&ServiceTotals::time_to_first_token);
  take(&ServiceTotals::time_per_output_token);
  take(&ServiceTotals::inter_token_latency);
  take(&ServiceTotals::queue_time);
  take(&ServiceTotals::total_time);
  take(&ServiceTotals::targets);
  take(&ServiceTotals::finished);
  take(&ServiceTotals::rejected);
  take(&ServiceTotals::cancelled);
  take(&ServiceTotals::generation_tokens);
  take(&ServiceTotals::prompt_tokens);
  take(&ServiceTotals::wasted_tokens);
  take(&ServiceTotals::prefix_query_tokens);
  take(&ServiceTotals::prefix_hit_tokens);
  take(&ServiceTotals::evicted_pages);
  take(&ServiceTotals::preemptions);
  take(&ServiceTotals::stage_seconds);
  take(&ServiceTotals::recall);
  take(&ServiceTotals::plans);
  for (int p = 0; p < kPhases; ++p) {
    added.phases[p] = Difference(phases[p], earlier.phases[p]);
  }
  return added;
}

ServiceTotals ReadTotals(const MetricsSnapshot& metrics) {
  ServiceTotals totals;
  totals.time_to_first_token =
      metrics.All("sparseserve_time_to_first_token_seconds");
  totals.time_per_output_token =
      metrics.All("sparseserve_time_per_output_token_seconds");
  totals.inter_token_latency =
      metrics.All("sparseserve_inter_token_latency_seconds");
  totals.queue_time = metrics.All("sparseserve_request_queue_time_seconds");
  totals.total_time = GenerationTime(metrics);
  for (const auto& series :
       metrics.Family("sparseserve_latency_targets_total")) {
    AddTarget(series, totals.targets[std::string(series.Label("target"))]);
  }
  totals.finished =
      SumBy(metrics, "sparseserve_requests_finished_total", "finish_reason");
  totals.rejected =
      SumBy(metrics, "sparseserve_requests_rejected_total", "reason");
  totals.cancelled =
      SumBy(metrics, "sparseserve_requests_cancelled_total", "cause");
  totals.generation_tokens =
      metrics.Value("sparseserve_generation_tokens_total");
  totals.prompt_tokens =
      SumBy(metrics, "sparseserve_prompt_tokens_total", "source");
  totals.wasted_tokens =
      SumBy(metrics, "sparseserve_wasted_tokens_total", "cause");
  totals.prefix_query_tokens =
      metrics.Value("sparseserve_prefix_cache_query_tokens_total");
  totals.prefix_hit_tokens =
      metrics.Value("sparseserve_prefix_cache_hit_tokens_total");
  totals.evicted_pages =
      metrics.Value("sparseserve_kv_cache_evicted_pages_total");
  totals.preemptions = metrics.Value("sparseserve_preemptions_total");
  totals.stage_seconds =
      SumBy(metrics, "sparseserve_stage_busy_seconds_total", "stage");
  for (int p = 0; p < kPhases; ++p) totals.phases[p] = ReadPhase(metrics, p);
  for (const auto& series :
       metrics.Family("sparseserve_attention_recall_estimate_ratio")) {
    totals.recall[std::string(series.Label("pattern"))] += series.distribution;
  }
  ReadPlans(metrics, totals);
  return totals;
}

}  // namespace sparseserve
