#include "server/scheduling/usable_hit.h"

#include "engine/pattern/every_pattern.h"
#include "engine/step.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

HitRule Rule(int border) { return {.traits = {.chunk_border_tokens = border}}; }

struct Row {
  int border, hit, total, usable;
};

TEST(UsableHitTest, EndsOnBordersBeforeTheLastToken) {
  const Row rows[] = {
      {1, 0, 1, 0},        {1, 0, 500, 0},      {1, 64, 65, 64},
      {1, 64, 64, 0},      {1, 128, 128, 64},   {1, 128, 129, 128},
      {1, 448, 500, 448},  {64, 448, 500, 448}, {64, 128, 128, 64},
      {96, 448, 500, 384}, {96, 191, 500, 0},   {128, 448, 500, 384},
      {128, 64, 500, 0},   {512, 448, 500, 0},  {512, 1024, 1024, 512},
      {0, 128, 200, 128},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(UsableHit(Rule(row.border), row.hit, row.total), row.usable)
        << row.border << " " << row.hit << " " << row.total;
  }
}

TEST(UsableHitTest, EndsWhereThePromptsEndIsTreatedApart) {
  HitRule rule = Rule(1);
  rule.first_end_token = 192;
  EXPECT_EQ(UsableHit(rule, 256, 300), 192);
  EXPECT_EQ(UsableHit(rule, 128, 300), 128);
  EXPECT_EQ(SharedPromptTokens(rule, 300), 299);  // its end is the same
  rule.first_end_token = 0;
  EXPECT_EQ(UsableHit(rule, 256, 300), 0);
}

TEST(UsableHitTest, NoneWhereTheEndOfThePromptChooses) {
  HitRule rule = Rule(64);
  rule.traits.is_selection_causal = false;
  EXPECT_EQ(UsableHit(rule, 448, 500), 0);
  EXPECT_EQ(SharedPromptTokens(rule, 500), 0);
}

TEST(UsableHitTest, NoneWhereEveryRowIsMeasured) {
  HitRule rule = Rule(1);
  rule.needs_every_row = true;
  EXPECT_EQ(UsableHit(rule, 448, 500), 0);
  EXPECT_EQ(SharedPromptTokens(rule, 500), 0);
}

TEST(UsableHitTest, EveryPatternKeepsToItsTraits) {
  for (const PatternSpec& pattern : EveryPattern()) {
    const HitRule rule = {.traits = TraitsOf(pattern)};
    for (int hit = 0; hit <= 512; hit += kPageTokens) {
      const int usable = UsableHit(rule, hit, 512);
      EXPECT_LE(usable, hit) << PatternName(pattern);
      EXPECT_LT(usable, 512) << PatternName(pattern);
      EXPECT_EQ(usable % kPageTokens, 0) << PatternName(pattern);
      EXPECT_EQ(usable % rule.traits.chunk_border_tokens, 0)
          << PatternName(pattern);
      if (!rule.traits.is_selection_causal) {
        EXPECT_EQ(usable, 0) << PatternName(pattern);
      }
    }
  }
}

TEST(UsableHitTest, AnswersShareAllOfAPromptButItsLastToken) {
  EXPECT_EQ(SharedPromptTokens(Rule(1), 1), 0);
  EXPECT_EQ(SharedPromptTokens(Rule(1), 100), 99);
  EXPECT_EQ(SharedPromptTokens(Rule(1), 128), 127);
  EXPECT_EQ(SharedPromptTokens(Rule(64), 100), 64);
  EXPECT_EQ(SharedPromptTokens(Rule(64), 128), 64);
  EXPECT_EQ(SharedPromptTokens(Rule(64), 129), 128);
}

}  // namespace
}  // namespace sparseserve
