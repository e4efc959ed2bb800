#include "server/calibration/plan_selection.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

TEST(ParetoOrderTest, WhoIsBeatenIsLeftOut) {
  const std::vector<PlanPoint> points = {
      {0.5, 0.02}, {0.9, 0.001}, {0.6, 0.03}, {0.3, 0.05}, {0.5, 0.02}};
  EXPECT_THAT(ParetoOrder(points), ElementsAre(1, 0, 3));
  EXPECT_THAT(ParetoOrder({}), ElementsAre());
}

TEST(SparsestWithinTest, TakesTheSparsestOfEachLevelOnce) {
  const std::vector<PlanPoint> points = {
      {0.9, 0.001}, {0.7, 0.004}, {0.5, 0.009}, {0.3, 0.05}, {0.2, 0.5}};
  EXPECT_THAT(SparsestWithin(points, {0.0001, 0.005, 0.01, 0.02, 0.1}),
              ElementsAre(1, 2, 3));
}

CalibratedPlan Plan(const std::string& name, Phase phase, double upper,
                    double density, int min_tokens = 65) {
  CalibratedPlan plan = {name, {}};
  plan.quality[static_cast<int>(phase)] = {{.min_tokens = min_tokens,
                                            .max_tokens = 128,
                                            .divergence_upper = upper,
                                            .density_p50 = density}};
  return plan;
}

std::vector<std::string> NamesOf(const std::vector<CalibratedPlan>& plans) {
  std::vector<std::string> names;
  for (const CalibratedPlan& plan : plans) names.push_back(plan.name);
  return names;
}

TEST(OrderPlansTest, EachPhaseIsInItsOrder) {
  const auto plans = OrderPlans(
      {Plan("output-coarse", Phase::kDecode, 0.1, 0.2),
       Plan("coarse", Phase::kPrefill, 0.05, 0.3),
       Plan("output-fine", Phase::kDecode, 0.01, 0.6),
       Plan("fine", Phase::kPrefill, 0.002, 0.7),
       Plan("beaten", Phase::kPrefill, 0.06, 0.4),
       Plan("elsewhere", Phase::kPrefill, 0.001, 0.1, /*min_tokens=*/80)},
      32);
  EXPECT_THAT(NamesOf(plans),
              ElementsAre("fine", "coarse", "output-fine", "output-coarse"));
}

TEST(OrderPlansTest, TheBestStayWhereThereAreTooMany) {
  std::vector<CalibratedPlan> plans;
  for (int i = 0; i < 4; ++i) {
    plans.push_back(Plan("p" + std::to_string(i), Phase::kPrefill,
                         0.01 * (i + 1), 0.9 - 0.1 * i));
  }
  for (int i = 0; i < 2; ++i) {
    plans.push_back(Plan("o" + std::to_string(i), Phase::kDecode,
                         0.01 * (i + 1), 0.9 - 0.1 * i));
  }
  EXPECT_THAT(NamesOf(OrderPlans(plans, 4)),
              ElementsAre("p0", "p1", "o0", "o1"));
  EXPECT_THAT(NamesOf(OrderPlans(plans, 5)),
              ElementsAre("p0", "p1", "p2", "o0", "o1"));
}

}  // namespace
}  // namespace sparseserve
