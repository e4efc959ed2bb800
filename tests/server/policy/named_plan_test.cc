#include "server/policy/named_plan.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

// Three layers of two KV heads, the first of them with a window.
ModelInfo Model() {
  ModelInfo model;
  model.layers = 3;
  model.kv_heads = 2;
  model.layer_windows = {64, 0, 0};
  return model;
}

// Of a single plan with these rules: the pattern of each layer's heads.
std::vector<PatternSpec> Resolved(const std::vector<HeadRule>& rules) {
  const auto plans = ResolvePlans({{.name = "p", .map = rules}}, Model());
  std::vector<PatternSpec> patterns;
  if (!plans.ok()) {
    ADD_FAILURE() << plans.status();
    return patterns;
  }
  for (int layer = 0; layer < 3; ++layer) {
    for (int head = 0; head < 2; ++head) {
      patterns.push_back((*plans)[0].choice.map->at(layer, head));
    }
  }
  return patterns;
}

const PatternSpec kDense = DensePattern();
const PatternSpec kNear = SinkWindowPattern{4, 64};
const PatternSpec kChosen = XAttentionPattern{.stride = 16};

TEST(ResolvePlansTest, APatternIsForAllHeads) {
  const auto plans =
      ResolvePlans({{"fast", kChosen}, {"near", kNear}}, Model());
  ASSERT_TRUE(plans.ok()) << plans.status();
  ASSERT_EQ(plans->size(), 2);
  EXPECT_EQ((*plans)[0].name, "fast");
  EXPECT_EQ((*plans)[0].choice.pattern, kChosen);
  EXPECT_EQ((*plans)[0].choice.map, nullptr);
  EXPECT_EQ((*plans)[1].name, "near");
}

TEST(ResolvePlansTest, ARuleIsForTheHeadsOfItsLayers) {
  EXPECT_THAT(Resolved({{kNear, {1, 2}, {1}}}),
              ElementsAre(kDense, kDense, kDense, kNear, kDense, kNear));
}

TEST(ResolvePlansTest, WhatIsNotListedIsAll) {
  EXPECT_THAT(Resolved({{kNear, {2}, {}}}),
              ElementsAre(kDense, kDense, kDense, kDense, kNear, kNear));
  EXPECT_THAT(Resolved({{kNear, {}, {0}}}),
              ElementsAre(kNear, kDense, kNear, kDense, kNear, kDense));
}

TEST(ResolvePlansTest, TheLastRuleForAHeadCounts) {
  EXPECT_THAT(Resolved({{kChosen}, {kNear, {1}, {}}, {kDense, {1}, {0}}}),
              ElementsAre(kChosen, kChosen, kDense, kNear, kChosen, kChosen));
}

TEST(ResolvePlansTest, MoreRulesThanHeadsMayOverruleEachOther) {
  EXPECT_THAT(Resolved(std::vector<HeadRule>(9, HeadRule{kNear})),
              ElementsAre(kNear, kNear, kNear, kNear, kNear, kNear));
}

TEST(ResolvePlansTest, HeadsOfAMapMayBePruned) {
  const PatternSpec pruned = PrunedPattern();
  EXPECT_THAT(Resolved({{kNear}, {pruned, {0, 2}, {1}}}),
              ElementsAre(kNear, pruned, kNear, kNear, kNear, pruned));
}

struct BadPlan {
  const char* name;
  PlanRule plan;
  const char* message;
};

class BadPlanTest : public ::testing::TestWithParam<BadPlan> {};

TEST_P(BadPlanTest, IsAnErrorThatNamesIt) {
  const auto plans = ResolvePlans({{"good", kNear}, GetParam().plan}, Model());
  EXPECT_EQ(plans.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(plans.status().message(), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Table, BadPlanTest,
    ::testing::Values(
        BadPlan{"pattern",
                {"p", SlidingWindowPattern{64}},
                "attention_plans[1].pattern is sliding_window, which this "
                "model cannot have: the checkpoint was not trained with a "
                "window in every layer"},
        BadPlan{"pruned",
                {"p", PrunedPattern()},
                "attention_plans[1].pattern is pruned, which this model cannot "
                "have: it is for some heads of a plan's map, not for all of a "
                "model"},
        BadPlan{"pruned_map",
                {"p", {}, {{PrunedPattern()}}},
                "attention_plans[1].map is pruned in all 6 heads of this "
                "model; at least 1 must have another pattern"},
        BadPlan{"pruned_map_of_several_rules",
                {"p",
                 {},
                 {{kNear, {0}, {}},
                  {PrunedPattern(), {0, 1}, {}},
                  {PrunedPattern(), {2}, {}}}},
                "attention_plans[1].map is pruned in all 6 heads of this "
                "model; at least 1 must have another pattern"},
        BadPlan{"pattern_of_map",
                {"p", {}, {{kNear}, {StridedPattern()}}},
                "attention_plans[1].map.rules[1].pattern is strided, which "
                "this model cannot have: the checkpoint was not trained with "
                "it"},
        BadPlan{"layer",
                {"p", {}, {{kNear, {2, 3}, {}}}},
                "attention_plans[1].map.rules[0].layers[1] is 3, must be from "
                "0 to 2 with this model"},
        BadPlan{"head",
                {"p", {}, {{kNear, {}, {-1}}}},
                "attention_plans[1].map.rules[0].kv_heads[0] is -1, must be "
                "from 0 to 1 with this model"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace sparseserve
