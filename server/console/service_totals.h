#pragma once

#include <array>
#include <map>
#include <string>

#include "engine/step.h"
#include "server/metrics/distribution.h"
#include "server/metrics/metrics_snapshot.h"

namespace sparseserve {

// Counts by one label's value.
using CountsBy = std::map<std::string, double>;

// What of the metrics only grows, as the console shows it: since the server
// started, or as Since() between two moments. A value.
struct ServiceTotals {
  struct Targets {
    double met = 0, missed = 0;
  };
  struct Plan {
    std::array<double, kPhases> requests = {};
    Targets targets;
    double demotions = 0;
  };
  struct PhaseTotals {
    Distribution step_seconds, batch_requests, batch_tokens;
    double computed_blocks = 0, skipped_blocks = 0;
    CountsBy heads;      // runs of heads, by pattern
    CountsBy fallbacks;  // requests, by reason
  };

  // Of requests, in seconds.
  Distribution time_to_first_token, time_per_output_token, inter_token_latency,
      queue_time, total_time;
  std::map<std::string, Targets> targets;  // by what they bound
  CountsBy finished, rejected, cancelled;  // requests, by reason or cause
  double generation_tokens = 0;
  CountsBy prompt_tokens;  // by where keys and values came from
  CountsBy wasted_tokens;  // by cause
  double prefix_query_tokens = 0, prefix_hit_tokens = 0, evicted_pages = 0;
  double preemptions = 0;
  CountsBy stage_seconds;
  std::array<PhaseTotals, kPhases> phases;
  std::map<std::string, Distribution> recall;  // of sampled rows, by pattern
  std::map<std::string, Plan> plans;

  ServiceTotals Since(const ServiceTotals& earlier) const;
};

// Series that the server does not have count as none.
ServiceTotals ReadTotals(const MetricsSnapshot& metrics);

}  // namespace sparseserve
