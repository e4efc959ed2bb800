#include "engine/layout/predicate_blocks.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "engine/step.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

constexpr int kBlock = kPageTokens;

std::vector<int> Expand(const std::vector<BlockRange>& ranges) {
  std::vector<int> blocks;
  for (const BlockRange& range : ranges) {
    for (int b = range.begin; b < range.end; ++b) blocks.push_back(b);
  }
  return blocks;
}

QueryTile Tile(int first_position, int rows) {
  QueryTile tile;
  tile.first_position = first_position;
  tile.rows = rows;
  return tile;
}

// Key by key.
std::vector<int> SeenByAny(const KeyPredicate& predicate,
                           const QueryTile& tile) {
  std::vector<int> blocks;
  for (int key = 0; key < tile.first_position + tile.rows; ++key) {
    if (!blocks.empty() && blocks.back() == key / kBlock) continue;
    for (int r = 0; r < tile.rows; ++r) {
      if (!predicate.Sees(tile.first_position + r, key)) continue;
      blocks.push_back(key / kBlock);
      break;
    }
  }
  return blocks;
}

bool SeenByAll(const KeyPredicate& predicate, const QueryTile& tile,
               int block) {
  for (int r = 0; r < tile.rows; ++r) {
    for (int key = block * kBlock; key < (block + 1) * kBlock; ++key) {
      if (!predicate.Sees(tile.first_position + r, key)) return false;
    }
  }
  return true;
}

KeyRule RandomRule(std::mt19937& random) {
  const auto below = [&](int limit) {
    return static_cast<int32_t>(random() % limit);
  };
  const int32_t period = 1 + below(500);
  const int32_t columns = 1 + below(period);
  switch (below(7)) {
    case 0:
      return AllKeys();
    case 1:
      return SinkWindowKeys{below(300), 1 + below(500)};
    case 2:
      return StridedKeys{1 + below(400)};
    case 3:
      return ColumnKeys{period, below(period - columns + 1), columns,
                        below(2) == 0};
    case 4:
      return DilatedKeys{1 + below(300), 1 + below(9)};
    case 5:
      return NoKeys();
    default:
      return ChunkKeys{1 + below(400)};
  }
}

TEST(PredicateBlocksTest, EqualWhatKeyByKeyFinds) {
  std::mt19937 random(1);
  int whole_blocks = 0;
  for (int round = 0; round < 4000; ++round) {
    const int first = static_cast<int>(random() % 1200);
    const int room = kBlock - first % kBlock;
    const QueryTile tile =
        Tile(first, random() % 3 == 0 ? room : 1 + random() % room);
    const KeyPredicate predicate = {
        RandomRule(random),
        random() % 3 == 0 ? static_cast<int32_t>(1 + random() % 700) : 0};
    SCOPED_TRACE(testing::Message()
                 << "round " << round << ", rule " << predicate.rule.index()
                 << ", window " << predicate.window_tokens << ", " << tile.rows
                 << " rows from " << first);
    std::vector<BlockRange> ranges = {{7, 9}};  // what was there goes
    SeenBlocks(predicate, tile, ranges);
    ASSERT_EQ(Expand(ranges), SeenByAny(predicate, tile));
    const WholeBlocks whole = BlocksSeenWhole(predicate, tile);
    ASSERT_LE(whole.far.end, std::max(whole.near.begin, whole.far.end));
    const std::vector<int> full = Expand({whole.far, whole.near});
    ASSERT_TRUE(std::is_sorted(full.begin(), full.end()));
    ASSERT_EQ(std::adjacent_find(full.begin(), full.end()), full.end());
    for (const int block : full) {
      ASSERT_LT(block, first / kBlock);
      ASSERT_TRUE(SeenByAll(predicate, tile, block)) << block;
    }
    whole_blocks += static_cast<int>(full.size());
  }
  EXPECT_GT(whole_blocks, 1000);
}

// Where rows' intervals are what there is, no full block is missed.
TEST(PredicateBlocksTest, IntervalsMissNoWholeBlock) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    const int first = static_cast<int>(random() % 1200);
    const QueryTile tile =
        Tile(first, 1 + random() % (kBlock - first % kBlock));
    const int32_t size = static_cast<int32_t>(1 + random() % 600);
    const int32_t sink = static_cast<int32_t>(random() % 300);
    for (const KeyRule& rule :
         {KeyRule(AllKeys()), KeyRule(SinkWindowKeys{sink, size}),
          KeyRule(ChunkKeys{size})}) {
      const KeyPredicate predicate = {rule, round % 2 == 0 ? 0 : 2 * size};
      const WholeBlocks whole = BlocksSeenWhole(predicate, tile);
      std::vector<int> expected;
      for (int block = 0; block < first / kBlock; ++block) {
        if (SeenByAll(predicate, tile, block)) expected.push_back(block);
      }
      ASSERT_EQ(Expand({whole.far, whole.near}), expected)
          << "round " << round << ", rule " << rule.index();
    }
  }
}

TEST(PredicateBlocksTest, StridesOfWholeBlocksTakeOneBlockEach) {
  std::vector<BlockRange> ranges;
  SeenBlocks({StridedKeys{256}}, Tile(1024, 64), ranges);
  // Multiples of 4 blocks, and the window of 255 keys before.
  EXPECT_THAT(Expand(ranges), ElementsAre(0, 4, 8, 12, 13, 14, 15, 16));
}

TEST(PredicateBlocksTest, LargePositionsDoNotOverflow) {
  constexpr int kMost = (1 << 30) / kBlock * kBlock;
  std::vector<BlockRange> ranges;
  SeenBlocks({SinkWindowKeys{1, 1 << 30}}, Tile(kMost, 1), ranges);
  EXPECT_THAT(Expand(ranges), testing::SizeIs(kMost / kBlock + 1));
  SeenBlocks({DilatedKeys{1 << 30, 1 << 30}}, Tile(kMost, 1), ranges);
  EXPECT_THAT(Expand(ranges), ElementsAre(0, kMost / kBlock));
  SeenBlocks({ColumnKeys{1 << 30, 0, 1}}, Tile(kMost, 1), ranges);
  EXPECT_THAT(Expand(ranges), ElementsAre(0, kMost / kBlock));
}

}  // namespace
}  // namespace sparseserve
