#include "server/calibration/plan_selection.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <utility>

namespace sparseserve {
namespace {

// The plans, in order, that rule the phase first.
std::vector<CalibratedPlan> OrderPhase(std::vector<CalibratedPlan>& plans,
                                       Phase phase) {
  const auto index = static_cast<int>(phase);
  // The least first band that any has.
  int first = 0;
  for (const CalibratedPlan& plan : plans) {
    if (plan.quality[index].empty()) continue;
    const int own = plan.quality[index].front().min_tokens;
    first = first == 0 ? own : std::min(first, own);
  }
  std::vector<CalibratedPlan*> ruling;
  std::vector<PlanPoint> points;
  for (CalibratedPlan& plan : plans) {
    const bool rules_prompts =
        !plan.quality[static_cast<int>(Phase::kPrefill)].empty();
    if (rules_prompts != (phase == Phase::kPrefill)) continue;
    if (plan.quality[index].empty() ||
        plan.quality[index].front().min_tokens != first) {
      continue;
    }
    const PlanQuality& band = plan.quality[index].front();
    ruling.push_back(&plan);
    points.push_back({band.density_p50, band.divergence_upper});
  }
  std::vector<CalibratedPlan> ordered;
  for (const int place : ParetoOrder(points)) {
    ordered.push_back(std::move(*ruling[place]));
  }
  return ordered;
}

}  // namespace

std::vector<int> ParetoOrder(absl::Span<const PlanPoint> points) {
  std::vector<int> order(points.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return points[a].divergence != points[b].divergence
               ? points[a].divergence < points[b].divergence
               : points[a].density < points[b].density;
  });
  std::vector<int> kept;
  for (const int next : order) {
    if (kept.empty() || points[next].density < points[kept.back()].density) {
      kept.push_back(next);
    }
  }
  return kept;
}

std::vector<int> SparsestWithin(absl::Span<const PlanPoint> points,
                                absl::Span<const double> levels) {
  const std::vector<int> order = ParetoOrder(points);
  std::vector<bool> is_taken(points.size(), false);
  for (const double level : levels) {
    // The last one within is the sparsest.
    int best = -1;
    for (const int plan : order) {
      if (points[plan].divergence <= level) best = plan;
    }
    if (best >= 0) is_taken[best] = true;
  }
  std::vector<int> taken;
  for (const int plan : order) {
    if (is_taken[plan]) taken.push_back(plan);
  }
  return taken;
}

std::vector<CalibratedPlan> OrderPlans(std::vector<CalibratedPlan> plans,
                                       int most) {
  std::vector<CalibratedPlan> prompts = OrderPhase(plans, Phase::kPrefill);
  std::vector<CalibratedPlan> output = OrderPhase(plans, Phase::kDecode);
  const auto room = static_cast<size_t>(most);
  // Half of the room for either, and what the other leaves.
  const size_t of_prompts =
      std::min(prompts.size(), room - std::min(output.size(), room / 2));
  prompts.erase(prompts.begin() + static_cast<std::ptrdiff_t>(of_prompts),
                prompts.end());
  const size_t of_output = std::min(output.size(), room - of_prompts);
  std::move(output.begin(),
            output.begin() + static_cast<std::ptrdiff_t>(of_output),
            std::back_inserter(prompts));
  return prompts;
}

}  // namespace sparseserve
