#include "server/calibration/head_choice.h"

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using Groups = std::vector<std::vector<HeadOption>>;

TEST(LowerHullTest, KeepsCornersAlone) {
  // 1 is above the line from 0 to 2, 3 loses more than 2 for more cost, 4 is
  // the dense one.
  const std::vector<HeadOption> options = {
      {0.1, 0.9}, {0.3, 0.8}, {0.4, 0.3}, {0.5, 0.35}, {1, 0}};
  EXPECT_THAT(LowerHull(options), ElementsAre(0, 2, 4));
}

TEST(LowerHullTest, TheBestOfEqualCostsStands) {
  const std::vector<HeadOption> options = {{0.5, 0.4}, {0.5, 0.2}, {0.5, 0.2}};
  EXPECT_THAT(LowerHull(options), ElementsAre(1));
}

double CostOf(const Groups& groups, const std::vector<int>& chosen) {
  double cost = 0;
  for (size_t i = 0; i < groups.size(); ++i) cost += groups[i][chosen[i]].cost;
  return cost;
}

TEST(ChooseOptionsTest, GivesTheBudgetToWhoGainsMost) {
  const Groups groups = {{{0.2, 0.1}, {1, 0}}, {{0.2, 0.5}, {1, 0}}};
  EXPECT_THAT(ChooseOptions(groups, 2), ElementsAre(1, 1));
  EXPECT_THAT(ChooseOptions(groups, 1.25), ElementsAre(0, 1));
  EXPECT_THAT(ChooseOptions(groups, 1.1), ElementsAre(0, 0));
}

TEST(ChooseOptionsTest, WithoutEnoughTheCheapestAreTaken) {
  const Groups groups = {{{0.2, 0.1}, {1, 0}}, {{0.3, 0.5}, {1, 0}}};
  EXPECT_THAT(ChooseOptions(groups, 0.1), ElementsAre(0, 0));
}

// The least loss of all choices that fit, by trying each.
double BestLoss(const Groups& groups, double budget) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<int> chosen(groups.size(), 0);
  while (true) {
    if (CostOf(groups, chosen) <= budget) {
      best = std::min(best, LossOf(groups, chosen));
    }
    size_t at = 0;
    while (at < groups.size() &&
           ++chosen[at] == static_cast<int>(groups[at].size())) {
      chosen[at++] = 0;
    }
    if (at == groups.size()) return best;
  }
}

// Within one step of a hull of what is best, and never over the budget.
TEST(ChooseOptionsTest, IsNearToTheBestOfAllChoices) {
  std::mt19937 random(3);
  const auto draw = [&] { return static_cast<double>(random() % 1000) / 1000; };
  for (int trial = 0; trial < 50; ++trial) {
    Groups groups(5);
    double longest_step = 0;
    for (auto& options : groups) {
      options.push_back({1, 0});
      for (int i = 0; i < 3; ++i) options.push_back({draw(), draw()});
      const std::vector<int> hull = LowerHull(options);
      for (size_t i = 1; i < hull.size(); ++i) {
        longest_step = std::max(
            longest_step, options[hull[i - 1]].loss - options[hull[i]].loss);
      }
    }
    const double budget = 1 + 3 * draw();
    const std::vector<int> chosen = ChooseOptions(groups, budget);
    const double best = BestLoss(groups, budget);
    if (best == std::numeric_limits<double>::infinity()) continue;
    EXPECT_LE(CostOf(groups, chosen), budget + 1e-9);
    EXPECT_GE(LossOf(groups, chosen), best - 1e-9);
    EXPECT_LE(LossOf(groups, chosen), best + longest_step + 1e-9);
  }
}

TEST(RaiseWorstTest, WhoLosesMostGoesUpACorner) {
  const Groups groups = {{{0.2, 0.5}, {0.6, 0.1}, {1, 0}},
                         {{0.2, 0.4}, {0.6, 0.1}, {1, 0}},
                         {{0.2, 0.1}, {0.6, 0.01}, {1, 0}}};
  EXPECT_THAT(RaiseWorst(groups, {0, 0, 0}, 0.01), ElementsAre(1, 0, 0));
  EXPECT_THAT(RaiseWorst(groups, {0, 0, 0}, 0.5), ElementsAre(1, 1, 0));
  EXPECT_THAT(RaiseWorst(groups, {1, 0, 0}, 0.1), ElementsAre(1, 1, 0));
  EXPECT_THAT(RaiseWorst(groups, {2, 2, 2}, 1), ElementsAre(2, 2, 2));
  EXPECT_DOUBLE_EQ(LossOf(groups, {1, 0, 2}), 0.5);
}

}  // namespace
}  // namespace sparseserve
