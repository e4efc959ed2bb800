#pragma once

#include <vector>

#include "absl/types/span.h"

namespace sparseserve {

// One of the things that a head, or a group of heads, may do.
struct HeadOption {
  double cost = 0;  // share of the work of dense attention
  double loss = 0;  // nats
};

// The options that the lower convex hull of (cost, loss) has as its corners,
// from the cheapest to the one that loses least: indexes into `options`. Among
// equals the first. REQUIRES: not empty, all finite.
std::vector<int> LowerHull(absl::Span<const HeadOption> options);

// One option for each group, so that the costs add up to at most `budget` and
// the losses to as little as can be had but for one corner of a hull: the
// multiple-choice knapsack, solved as its relaxation is. Every corner costs so
// much more for so much less loss than the one before; those that give most for
// it are taken first (which ends where bisection on the price of cost would),
// as long as they fit. Where even the cheapest are too much, those. Returns an
// index of each group's options.
std::vector<int> ChooseOptions(
    const std::vector<std::vector<HeadOption>>& groups, double budget);

// A choice in which `share` of the groups, those that lose most (at least one),
// have the next corner of their hulls instead, which costs more and loses less;
// but for those that have their last.
std::vector<int> RaiseWorst(const std::vector<std::vector<HeadOption>>& groups,
                            const std::vector<int>& chosen, double share);

// What the chosen options lose one by one.
double LossOf(const std::vector<std::vector<HeadOption>>& groups,
              const std::vector<int>& chosen);

}  // namespace sparseserve
