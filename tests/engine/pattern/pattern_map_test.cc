#include "engine/pattern/pattern_map.h"

#include <string>
#include <vector>

#include "engine/pattern/attention_choice.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PatternMapTest, GivesEachHeadItsPattern) {
  const PatternMap map =
      PatternMap::Create({2, 2}, {DensePattern(), SlidingWindowPattern{9}},
                         {0, 1, 1, 1})
          .value();
  EXPECT_EQ(map.at(0, 0), PatternSpec(DensePattern()));
  EXPECT_EQ(map.at(0, 1), PatternSpec(SlidingWindowPattern{9}));
  EXPECT_EQ(map.at(1, 0), PatternSpec(SlidingWindowPattern{9}));
  EXPECT_THAT(map.Row(0), ElementsAre(0, 1));
}

TEST(PatternMapTest, EqualPatternsAndRowsAreFoundOnce) {
  const PatternMap map =
      PatternMap::Create({4, 2},
                         {StridedPattern{7}, DensePattern(), StridedPattern{7},
                          StridedPattern{8}, SinkWindowPattern()},
                         {0, 1, 2, 1, 3, 1, 1, 2})
          .value();
  EXPECT_THAT(map.patterns(), ElementsAre(StridedPattern{7}, DensePattern(),
                                          StridedPattern{8}));
  std::vector<int> firsts;
  for (int layer = 0; layer < 4; ++layer) {
    firsts.push_back(map.FirstEqual(layer));
  }
  EXPECT_THAT(firsts, ElementsAre(0, 0, 2, 3));
}

TEST(PatternMapTest, WhatDoesNotFitIsNamed) {
  const PatternMap::Shape shape = {2, 2};
  const std::vector<PatternSpec> one = {DensePattern()};
  const std::vector<int32_t> zeros = {0, 0, 0, 0};
  const struct {
    PatternMap::Shape shape;
    std::vector<PatternSpec> patterns;
    std::vector<int32_t> pattern_of;
    const char* message;
  } kCases[] = {
      {{0, 2}, one, {}, "pattern map: layers is 0; allowed: 1 ... 1024"},
      {{1 << 30, 1 << 30}, one, zeros, "layers is 1073741824"},
      {{2, -1}, one, zeros, "kv_heads is -1; allowed: 1 ... 1024"},
      {shape, one, {0, 0, 0}, "it has 3 entries for 2 layers with 2 KV heads"},
      {shape, {}, zeros, "patterns is 0; allowed: 1 ... 4"},
      {shape, std::vector<PatternSpec>(5), zeros, "patterns is 5; allowed"},
      {shape, one, {0, 0, 0, 1}, "layer 1, KV head 1 names pattern 1 of 1"},
      {shape, one, {0, -1, 0, 0}, "layer 0, KV head 1 names pattern -1 of 1"},
      {shape,
       {DensePattern(), SinkWindowPattern{4, 0}},
       zeros,
       "pattern 1: sink_window: window_tokens is 0; allowed: 1 or more"}};
  for (const auto& bad : kCases) {
    const absl::Status status =
        PatternMap::Create(bad.shape, bad.patterns, bad.pattern_of).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
  }
}

TEST(PatternMapTest, TraitsHoldForAllPatternsTogether) {
  AttentionChoice choice = {.pattern = XAttentionPattern()};
  EXPECT_EQ(TraitsOf(choice).chunk_border_tokens, 64);
  choice.map = std::make_shared<const PatternMap>(
      PatternMap::Create({1, 2}, {DensePattern(), SinkWindowPattern()}, {0, 1})
          .value());
  EXPECT_EQ(TraitsOf(choice).chunk_border_tokens, 1);
  EXPECT_TRUE(TraitsOf(choice).is_time_predictable);
  EXPECT_FALSE(TraitsOf(choice).is_trained_in);
  const PatternMap mixed =
      PatternMap::Create({1, 2}, {SlidingWindowPattern(), XAttentionPattern()},
                         {0, 1})
          .value();
  EXPECT_TRUE(mixed.traits().is_selection_causal);
  EXPECT_EQ(mixed.traits().chunk_border_tokens, 64);
  EXPECT_TRUE(mixed.traits().is_trained_in);
  EXPECT_FALSE(mixed.traits().is_time_predictable);
  EXPECT_FALSE(mixed.traits().is_superset);
}

TEST(PatternMapTest, RulesAPhaseThatSomeHeadRules) {
  const auto traits = [](const PatternSpec& other) {
    return PatternMap::Create({1, 2}, {XAttentionPattern(), other}, {0, 1})
        .value()
        .traits();
  };
  EXPECT_TRUE(traits(TriShapePattern()).rules_prefill);
  EXPECT_FALSE(traits(TriShapePattern()).rules_decode);
  EXPECT_TRUE(traits(SinkWindowPattern()).rules_decode);
  EXPECT_TRUE(traits(VerticalSlashPattern()).is_superset);
}

}  // namespace
}  // namespace sparseserve
