#pragma once

// The series of plans: chosen, predicted, guarded. Private to this folder;
// arrays are indexed by the enums of plan_events.h.

#include <array>
#include <string>
#include <vector>

#include "server/metrics/family_builder.h"
#include "server/metrics/label_values.h"

namespace sparseserve {

struct PlanSeries {
  using Counter = prometheus::Counter;
  using Gauge = prometheus::Gauge;
  using Histogram = prometheus::Histogram;
  template <typename T, size_t N>
  using Each = std::array<T*, N>;
  template <typename T, size_t N, size_t M>
  using Grid = std::array<std::array<T*, M>, N>;

  struct Plan {
    Each<Counter, kPhases> requests;
    std::string label;
    Each<Counter, 2> slack;  // early, late
    Each<Gauge, kGuardStates.size()> state;
    Each<Counter, kDemotionCauses.size()> demotions;
    Counter* promotions;
    Each<Counter, kShadowOutcomes.size()> shadow_runs;
    Counter* divergence;
  };

  // `names` as in Metrics::Options; never empty afterwards.
  PlanSeries(const SeriesFactory& make, const std::vector<std::string>& names);

  // Missed and met. Made with the first target of a class: few plans see all.
  Each<Counter, 2> Targets(const Plan& plan, size_t prompt_class) const;

  const FamilyBuilder<Counter> targets;
  std::vector<Plan> plans;
  Grid<Counter, kPredictedQuantities.size(), kPredictionOutcomes.size()>
      predictions;
  Grid<Counter, kPredictedQuantities.size(), 2> errors;  // early, late
  Each<Counter, kPhases> switches;
  Counter* sampled_rows;
  Each<Counter, kRedoCauses.size()> redone_slices;
  Histogram* entropy;
};

}  // namespace sparseserve
