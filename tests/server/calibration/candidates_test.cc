#include "server/calibration/candidates.h"

#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/policy/pattern_decision.h"

namespace sparseserve {
namespace {

ModelInfo Model() {
  ModelInfo model;
  model.layers = 2;
  model.heads = 4;
  model.kv_heads = 2;
  return model;
}

TEST(CandidatesTest, PlansForPromptsMayBeCutAnywhere) {
  std::set<std::string> names;
  for (const Candidate& plan : PromptCandidates(Model())) {
    EXPECT_TRUE(names.insert(plan.name).second) << plan.name;
    EXPECT_TRUE(CheckPattern(plan.choice.pattern).ok()) << plan.name;
    const PatternDecision decision = Decide("p", plan.choice, Model());
    EXPECT_TRUE(decision.traits.is_selection_causal) << plan.name;
    EXPECT_TRUE(decision.traits.rules_prefill) << plan.name;
    EXPECT_FALSE(decision.traits.rules_decode) << plan.name;
    EXPECT_EQ(decision.prompt_end_blocks, 0) << plan.name;
  }
  EXPECT_GE(names.size(), 10);
}

TEST(CandidatesTest, PlansForOutputLeavePromptsDense) {
  std::set<std::string> names;
  for (const Candidate& plan : OutputCandidates(Model())) {
    EXPECT_TRUE(names.insert(plan.name).second) << plan.name;
    EXPECT_TRUE(CheckPattern(plan.choice.pattern).ok()) << plan.name;
    EXPECT_FALSE(TraitsOf(plan.choice).rules_prefill) << plan.name;
    EXPECT_TRUE(TraitsOf(plan.choice).rules_decode) << plan.name;
  }
  EXPECT_GE(names.size(), 5);
}

TEST(CandidatesTest, WhatTheModelMayNotRunWithIsNone) {
  ModelInfo windowed = Model();
  windowed.layer_windows = {64, 64};
  for (const Candidate& plan : PromptCandidates(windowed)) {
    EXPECT_TRUE(WhyUnsupported(plan.choice.pattern, windowed).empty());
  }
  EXPECT_TRUE(OutputCandidates(windowed).empty());
  EXPECT_EQ(HeadLevels(windowed).size(), 2);
}

TEST(CandidatesTest, AMapGivesHeadsTheirLevels) {
  const std::vector<HeadLevel> levels = HeadLevels(Model());
  ASSERT_GT(levels.size(), 3);
  EXPECT_EQ(levels[0].pattern, PatternSpec(DensePattern()));
  EXPECT_EQ(levels[0].selection_cost, 0);
  // Stride 8 and 4 rows of 64: 1/8 and 1/16 of the products with keys.
  EXPECT_EQ(levels[1].selection_cost, (0.125 + 0.0625) / 2);
  const AttentionChoice choice = MapOf(levels, {0, 3, 3, 1}, Model());
  ASSERT_NE(choice.map, nullptr);
  EXPECT_EQ(choice.map->at(0, 0), levels[0].pattern);
  EXPECT_EQ(choice.map->at(0, 1), levels[3].pattern);
  EXPECT_EQ(choice.map->at(1, 0), levels[3].pattern);
  EXPECT_EQ(choice.map->at(1, 1), levels[1].pattern);
}

}  // namespace
}  // namespace sparseserve
