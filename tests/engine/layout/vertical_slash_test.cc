#include "engine/layout/vertical_slash.h"

#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

std::vector<uint8_t> Blocks(const VerticalSlash& choice, int first_position,
                            int rows) {
  const QueryTile tile = {.rows = rows, .first_position = first_position};
  BlockChoice blocks;
  blocks.Begin(QueryBlock(tile, 64) + 1);
  choice.ForceBlocks(tile, blocks);
  return {blocks.chosen().begin(), blocks.chosen().end()};
}

AttentionSums Even(int keys) {
  return {std::vector<float>(keys, 1.0f), std::vector<float>(keys, 1.0f)};
}

TEST(VerticalSlashTest, FirstColumnsAndShortDiagonalsComeBeforeOthers) {
  AttentionSums sums = Even(512);
  sums.columns[200] = 9;
  sums.diagonals[300] = 9;
  VerticalSlash choice;
  // All 30 and all 100 are taken before the greatest sums ...
  choice.Choose({64, 30, 100}, sums);
  EXPECT_THAT(Blocks(choice, 448, 64), ElementsAre(1, 0, 0, 0, 0, 1, 1, 1));
  // ... which are the next: distance 300 leads from 448 ... 511 to 148 ... 211.
  choice.Choose({64, 31, 101}, sums);
  EXPECT_THAT(Blocks(choice, 448, 64), ElementsAre(1, 0, 1, 1, 0, 1, 1, 1));
  EXPECT_THAT(Blocks(choice, 128, 64), ElementsAre(1, 1, 1));
}

TEST(VerticalSlashTest, OfEqualSumsTheLowerKeyAndTheShorterDistanceAreTaken) {
  VerticalSlash choice;
  choice.Choose({64, 65, 1}, Even(512));
  EXPECT_THAT(Blocks(choice, 448, 64), ElementsAre(1, 1, 0, 0, 0, 0, 0, 1));
  choice.Choose({64, 1, 129}, Even(512));
  EXPECT_THAT(Blocks(choice, 448, 64), ElementsAre(1, 0, 0, 0, 0, 1, 1, 1));
}

TEST(VerticalSlashTest, DistancesBeforeTheFirstKeyLeadNowhere) {
  AttentionSums sums = Even(512);
  for (int distance = 150; distance < 512; ++distance) {
    sums.diagonals[distance] = 9;
  }
  VerticalSlash choice;
  choice.Choose({64, 1, 101}, sums);  // and distance 150
  EXPECT_THAT(Blocks(choice, 64, 40), ElementsAre(1, 1));
  // Rows 150 ... 159 meet keys 0 ... 9.
  EXPECT_THAT(Blocks(choice, 140, 20), ElementsAre(1, 1, 1));
  // Rows 400 ... 409 meet keys 250 ... 259.
  EXPECT_THAT(Blocks(choice, 400, 10), ElementsAre(1, 0, 0, 1, 1, 1, 1));
}

TEST(VerticalSlashTest, GarbageKeepsEveryBlock) {
  for (const bool is_column : {false, true}) {
    AttentionSums sums = Even(300);
    (is_column ? sums.columns : sums.diagonals)[7] =
        std::numeric_limits<float>::quiet_NaN();
    VerticalSlash choice;
    choice.Choose({64, 1, 1}, sums);
    EXPECT_THAT(Blocks(choice, 256, 44), Each(1));
  }
}

}  // namespace
}  // namespace sparseserve
