#pragma once

#include <vector>

#include "absl/types/span.h"
#include "server/policy/plan_profile.h"

namespace sparseserve {

// A plan as it is compared with others.
struct PlanPoint {
  double density = 1;
  double divergence = 0;  // nats
};

// Those that no other beats: indexes into `points`, least divergence first, so
// that density falls. Of equals the first.
std::vector<int> ParetoOrder(absl::Span<const PlanPoint> points);

// Of those, for each level the one with the least density whose divergence is
// at most that; each once.
std::vector<int> SparsestWithin(absl::Span<const PlanPoint> points,
                                absl::Span<const double> levels);

// The plans of a profile as it wants them: of those that rule prompts, and of
// those that rule output alone, the ones that no other beats in the first band
// of the phase, by median density and divergence_upper, the best first; those
// for prompts first, and at most `most` of all together, of which those with
// the least divergence_upper stay. Plans without the first band of their kind
// are left out.
std::vector<CalibratedPlan> OrderPlans(std::vector<CalibratedPlan> plans,
                                       int most);

}  // namespace sparseserve
