#include "server/scheduling/chunk_rule.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

struct BorderRow {
  int pattern, least_budget, asked, used;
};

TEST(ChunkRuleTest, BordersAreWholePagesThatEveryPromptCanReach) {
  const BorderRow rows[] = {
      {1, 64, 32, 64},     {64, 64, 64, 64},      {128, 128, 128, 128},
      {128, 127, 128, 64}, {48, 500, 192, 192},   {48, 191, 192, 64},
      {0, 64, 32, 64},     {1024, 512, 1024, 64},
  };
  for (const BorderRow& row : rows) {
    const ChunkRule rule =
        ChunkRuleOf({.chunk_border_tokens = row.pattern}, row.least_budget);
    EXPECT_EQ(rule.pattern_border_tokens, row.asked) << row.pattern;
    EXPECT_EQ(rule.border_tokens, row.used) << row.pattern;
    EXPECT_FALSE(rule.is_whole);
  }
}

// The chunks of a prompt of `total` tokens with the same budget each step.
std::vector<int> Chunks(const ChunkRule& rule, int total, int budget) {
  std::vector<int> chunks;
  for (int computed = 0; computed < total;) {
    const int tokens = ChunkTokens(rule, computed, total, budget);
    chunks.push_back(tokens);
    if (tokens == 0) break;
    computed += tokens;
  }
  return chunks;
}

TEST(ChunkRuleTest, ChunksEndOnBordersOrWithThePrompt) {
  const ChunkRule pages = ChunkRuleOf({}, 64);
  EXPECT_THAT(Chunks(pages, 150, 150), ElementsAre(150));
  EXPECT_THAT(Chunks(pages, 150, 149), ElementsAre(128, 22));
  EXPECT_THAT(Chunks(pages, 150, 64), ElementsAre(64, 64, 22));
  EXPECT_THAT(Chunks(pages, 150, 63), ElementsAre(0));
  const ChunkRule wide = ChunkRuleOf({.chunk_border_tokens = 128}, 128);
  EXPECT_THAT(Chunks(wide, 400, 200), ElementsAre(128, 128, 144));
  EXPECT_THAT(Chunks(wide, 400, 256), ElementsAre(256, 144));
  EXPECT_THAT(Chunks(wide, 400, 127), ElementsAre(0));
}

TEST(ChunkRuleTest, TheShortestChunkIsHalfAPageWhereThePatternDoesNotMind) {
  const ChunkRule any = ChunkRuleOf({}, 64);
  EXPECT_EQ(ShortestChunk(any, 0, 150), 32);
  EXPECT_EQ(ShortestChunk(any, 96, 150), 32);
  EXPECT_EQ(ShortestChunk(any, 128, 150), 22);
  EXPECT_THAT(Chunks(any, 150, 64), ElementsAre(64, 64, 22));
  EXPECT_EQ(ChunkTokens(any, 32, 150, 64), 32);
  const ChunkRule pages = ChunkRuleOf({.chunk_border_tokens = 64}, 64);
  EXPECT_EQ(ShortestChunk(pages, 64, 150), 64);
  const ChunkRule wide = ChunkRuleOf({.chunk_border_tokens = 128}, 100);
  EXPECT_EQ(ShortestChunk(wide, 64, 300), 64);
  const ChunkRule whole = ChunkRuleOf({.is_selection_causal = false}, 64);
  EXPECT_EQ(ShortestChunk(whole, 0, 150), 150);
}

TEST(ChunkRuleTest, BordersOutOfReachDoNotStarveAPrompt) {
  const ChunkRule rule = ChunkRuleOf({.chunk_border_tokens = 512}, 100);
  EXPECT_THAT(Chunks(rule, 300, 100), ElementsAre(64, 64, 64, 64, 44));
}

TEST(ChunkRuleTest, WhatIsNotSelectionCausalIsNeverCut) {
  const ChunkRule rule = ChunkRuleOf({.is_selection_causal = false}, 64);
  EXPECT_THAT(Chunks(rule, 300, 300), ElementsAre(300));
  EXPECT_THAT(Chunks(rule, 300, 299), ElementsAre(0));
}

}  // namespace
}  // namespace sparseserve
