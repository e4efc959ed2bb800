#include "server/calibration/head_choice.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

// From one corner of a group's hull to the next, which costs more.
struct Step {
  size_t group = 0;
  size_t corner = 0;  // that it leads to
  double cost = 0;
  double gain = 0;  // of loss, for each unit of cost
};

// Below 0: `b` lies above the line from `a` to `c`, all by rising cost.
double Turn(const HeadOption& a, const HeadOption& b, const HeadOption& c) {
  return (b.cost - a.cost) * (c.loss - a.loss) -
         (b.loss - a.loss) * (c.cost - a.cost);
}

}  // namespace

std::vector<int> LowerHull(absl::Span<const HeadOption> options) {
  SPARSESERVE_CHECK(!options.empty());
  std::vector<int> order(options.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return options[a].cost != options[b].cost
               ? options[a].cost < options[b].cost
               : options[a].loss < options[b].loss;
  });
  std::vector<int> hull;
  for (const int next : order) {
    // Who costs more must lose less.
    if (!hull.empty() && options[next].loss >= options[hull.back()].loss) {
      continue;
    }
    while (hull.size() >= 2 && Turn(options[hull[hull.size() - 2]],
                                    options[hull.back()], options[next]) <= 0) {
      hull.pop_back();
    }
    hull.push_back(next);
  }
  return hull;
}

std::vector<int> ChooseOptions(
    const std::vector<std::vector<HeadOption>>& groups, double budget) {
  std::vector<std::vector<int>> hulls;
  std::vector<Step> steps;
  double cost = 0;
  for (size_t group = 0; group < groups.size(); ++group) {
    const std::vector<HeadOption>& options = groups[group];
    const std::vector<int>& hull = hulls.emplace_back(LowerHull(options));
    cost += options[hull[0]].cost;
    for (size_t corner = 1; corner < hull.size(); ++corner) {
      const HeadOption& from = options[hull[corner - 1]];
      const HeadOption& to = options[hull[corner]];
      const double more = to.cost - from.cost;
      steps.push_back({group, corner, more, (from.loss - to.loss) / more});
    }
  }
  // Hulls are convex: each group's steps stay in their order.
  std::stable_sort(
      steps.begin(), steps.end(),
      [](const Step& a, const Step& b) { return a.gain > b.gain; });
  std::vector<size_t> corners(groups.size(), 0);
  for (const Step& step : steps) {
    // After one that was left out the group's later ones lead nowhere.
    if (corners[step.group] + 1 != step.corner) continue;
    if (cost + step.cost > budget) continue;
    cost += step.cost;
    corners[step.group] = step.corner;
  }
  std::vector<int> chosen;
  for (size_t group = 0; group < groups.size(); ++group) {
    chosen.push_back(hulls[group][corners[group]]);
  }
  return chosen;
}

std::vector<int> RaiseWorst(const std::vector<std::vector<HeadOption>>& groups,
                            const std::vector<int>& chosen, double share) {
  std::vector<size_t> order(groups.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return groups[a][chosen[a]].loss > groups[b][chosen[b]].loss;
  });
  const double worst = std::ceil(share * static_cast<double>(groups.size()));
  order.resize(std::clamp<size_t>(static_cast<size_t>(worst), 1, order.size()));
  std::vector<int> raised = chosen;
  for (const size_t group : order) {
    const std::vector<int> hull = LowerHull(groups[group]);
    const auto at = std::find(hull.begin(), hull.end(), chosen[group]);
    if (at == hull.end() || at + 1 == hull.end()) continue;
    raised[group] = *(at + 1);
  }
  return raised;
}

double LossOf(const std::vector<std::vector<HeadOption>>& groups,
              const std::vector<int>& chosen) {
  double loss = 0;
  for (size_t i = 0; i < groups.size(); ++i) loss += groups[i][chosen[i]].loss;
  return loss;
}

}  // namespace sparseserve
