#include "engine/layout/flex_prefill.h"

#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// Of tile number `block` of a prompt that begins at 0.
std::vector<uint8_t> Blocks(const FlexPrefill& choice, int block) {
  const QueryTile tile = {.rows = 64, .first_position = 64 * block};
  BlockChoice blocks;
  blocks.Begin(block + 1);
  choice.ForceBlocks(tile, block, blocks);
  return {blocks.chosen().begin(), blocks.chosen().end()};
}

// A sum of `values[b]` in block b, on one key or distance of it.
std::vector<float> InBlocks(const std::vector<float>& values) {
  std::vector<float> sums(64 * values.size());
  for (size_t b = 0; b < values.size(); ++b) sums[64 * b + 9] = values[b];
  return sums;
}

TEST(FlexPrefillTest, RowsUnlikeTheEstimateKeepTheirKeysAndDistances) {
  const AttentionSums sums = {InBlocks({0, 1, 9, 0, 0, 0}),
                              InBlocks({0, 0, 0, 9, 1, 0})};
  FlexPrefill choice;
  // One key and one distance have the mass: the forced block 0 alone.
  EXPECT_FALSE(choice.Choose({0.5f, 0.1f, 0}, sums, {5, 0, 0, 0, 0, 5}));
  EXPECT_FALSE(choice.is_query_aware());
  EXPECT_THAT(Blocks(choice, 5), ElementsAre(1, 0, 0, 0, 0, 1));
  // Two of each at least.
  EXPECT_FALSE(choice.Choose({0.5f, 0.1f, 2}, sums, {5, 0, 0, 0, 0, 5}));
  EXPECT_THAT(Blocks(choice, 5), ElementsAre(1, 0, 1, 0, 0, 1));
  EXPECT_THAT(Blocks(choice, 4), ElementsAre(1, 1, 1, 0, 1));
  EXPECT_THAT(Blocks(choice, 1), ElementsAre(1, 1));
}

// Tokens that have the mass, and how many blocks they are worth.
TEST(FlexPrefillTest, BlocksAreAsManyAsTheTokensThatHaveTheMassFill) {
  std::vector<float> even(384, 1.0f);
  std::vector<float> last(384, 0.0f);
  last[300] = 1;
  FlexPrefill choice;
  // 192 of 384 keys: 3 blocks and one.
  choice.Choose({0.5f, 0.0f, 0}, {even, last}, {1, 1, 1, 1, 1, 1});
  EXPECT_THAT(Blocks(choice, 5), ElementsAre(1, 1, 1, 1, 0, 1));
  // 63 keys: one block.
  choice.Choose({63.0f / 384, 0.0f, 0}, {even, last}, {1, 1, 1, 1, 1, 1});
  EXPECT_THAT(Blocks(choice, 5), ElementsAre(1, 0, 0, 0, 0, 1));
}

TEST(FlexPrefillTest, RowsLikeTheEstimateTakeTheLargestOfTheWholeMap) {
  const AttentionSums sums = {InBlocks({1, 1, 2}), InBlocks({1, 1, 2})};
  FlexPrefill choice;
  const FlexPrefillRule rule = {0.5f, 0.1f, 0};
  ASSERT_TRUE(choice.Choose(rule, sums, {2, 2, 4}));
  EXPECT_TRUE(choice.is_query_aware());
  choice.AddMapRow({4.0f});
  choice.AddMapRow({2.0f, 2.0f});
  choice.AddMapRow({3.0f, 1.0f, 0.0f});
  choice.ChooseFromMap(rule);
  // 6 of 12: 4 and 3, which reaches it.
  EXPECT_THAT(Blocks(choice, 0), ElementsAre(1));
  EXPECT_THAT(Blocks(choice, 1), ElementsAre(0, 0));
  EXPECT_THAT(Blocks(choice, 2), ElementsAre(1, 0, 0));
}

TEST(FlexPrefillTest, OfEqualScoresTheEarlierTileAndBlockAreTaken) {
  const AttentionSums sums = {InBlocks({1, 1}), InBlocks({1, 1})};
  FlexPrefill choice;
  const FlexPrefillRule rule = {0.6f, 0.1f, 0};
  ASSERT_TRUE(choice.Choose(rule, sums, {1, 1}));
  choice.AddMapRow({1.0f});
  choice.AddMapRow({1.0f, 1.0f});
  choice.ChooseFromMap(rule);
  EXPECT_THAT(Blocks(choice, 1), ElementsAre(1, 0));
}

TEST(FlexPrefillTest, LeastBlocksStandBesideTheMap) {
  const AttentionSums sums = {InBlocks({1, 1, 8, 1}), InBlocks({1, 1, 1, 8})};
  FlexPrefill choice;
  const FlexPrefillRule rule = {1e-9f, 10.0f, 2};
  ASSERT_TRUE(choice.Choose(rule, sums, {1, 1, 8, 1}));
  for (int tile = 0; tile < 4; ++tile) {
    choice.AddMapRow(std::vector<float>(tile + 1, 1.0f));
  }
  choice.ChooseFromMap(rule);
  // Keys 0 and 2, distances 0 and 3; nothing but (0, 0) of the map.
  EXPECT_THAT(Blocks(choice, 3), ElementsAre(1, 0, 1, 1));
  EXPECT_THAT(Blocks(choice, 2), ElementsAre(1, 0, 1));
}

TEST(FlexPrefillTest, GarbageAndAWholeMassKeepEveryBlock) {
  const AttentionSums sums = {InBlocks({1, 1, 8}), InBlocks({1, 1, 1})};
  AttentionSums garbage = sums;
  garbage.columns[3] = std::numeric_limits<float>::quiet_NaN();
  FlexPrefill choice;
  EXPECT_FALSE(choice.Choose({0.1f, 9.0f, 0}, garbage, {1, 1, 8}));
  EXPECT_THAT(Blocks(choice, 2), Each(1));
  EXPECT_FALSE(choice.Choose({0.1f, 9.0f, 0}, sums,
                             {1, std::numeric_limits<float>::infinity(), 8}));
  EXPECT_THAT(Blocks(choice, 2), Each(1));
  EXPECT_FALSE(choice.Choose({1.0f, 9.0f, 0}, sums, {1, 1, 8}));
  EXPECT_THAT(Blocks(choice, 2), Each(1));
}

}  // namespace
}  // namespace sparseserve
