#include "engine/pattern/visible_blocks.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr int32_t kBlockTokens = 64;

QueryTile Tile(int first_position, int rows) {
  QueryTile tile;
  tile.first_position = first_position;
  tile.rows = rows;
  return tile;
}

TEST(VisibleBlocksTest, DenseSeesEveryBlockUpToItsOwn) {
  for (const int query_block : {0, 1, 7}) {
    std::vector<BlockRange> ranges = {{3, 4}};  // what was there goes
    VisibleBlocks(DensePattern(), Tile(query_block * kBlockTokens + 5, 7),
                  kBlockTokens, ranges);
    ASSERT_EQ(ranges.size(), 1);
    EXPECT_EQ(ranges[0].begin, 0);
    EXPECT_EQ(ranges[0].end, query_block + 1);
  }
  EXPECT_EQ(WindowTokens(DensePattern()), 0);
}

using Pairs = std::set<std::pair<int, int>>;  // (row's position, key's)

// What a kernel that follows the layout computes.
Pairs SeenByLayout(const PatternSpec& pattern, const QueryTile& tile,
                   int32_t layer_window) {
  std::vector<BlockRange> ranges;
  VisibleBlocks(pattern, tile, kBlockTokens, ranges);
  LayoutBuilder builder(1);
  builder.AddTile(tile);
  builder.Assign(
      0, builder.AddList(ranges, {.window_tokens = NarrowerWindow(
                                      WindowTokens(pattern), layer_window)}));
  const BlockLayout& layout = builder.layout();
  EXPECT_EQ(layout.Validate(), absl::OkStatus());
  const KeyPredicate* predicate = layout.PredicateOf(0);
  const int window = predicate == nullptr ? 0 : predicate->window_tokens;
  Pairs seen;
  for (int r = 0; r < tile.rows; ++r) {
    const int position = tile.first_position + r;
    for (const int block : layout.full_blocks) {
      for (int key = 0; key < kBlockTokens; ++key) {
        seen.emplace(position, block * kBlockTokens + key);
      }
    }
    for (const int block : layout.partial_blocks) {
      for (int i = 0; i < kBlockTokens; ++i) {
        const int key = block * kBlockTokens + i;
        if (key <= position && (window == 0 || key > position - window)) {
          seen.emplace(position, key);
        }
      }
    }
  }
  return seen;
}

// The rule itself, for every pair of positions.
Pairs SeenByRule(const QueryTile& tile, int window) {
  Pairs seen;
  for (int r = 0; r < tile.rows; ++r) {
    const int position = tile.first_position + r;
    for (int key = 0; key <= position; ++key) {
      if (window == 0 || key > position - window) seen.emplace(position, key);
    }
  }
  return seen;
}

constexpr int kWindows[] = {1, 2, 63, 64, 65, 70, 127, 128, 129, 400, 1 << 30};

std::vector<QueryTile> Tiles() {
  std::vector<QueryTile> tiles;
  for (const int first : {0, 1, 62, 63, 64, 127, 128, 300, 320, 383}) {
    for (const int rows : {1, 2, 17, 64}) {
      if (first % kBlockTokens + rows <= kBlockTokens) {
        tiles.push_back(Tile(first, rows));
      }
    }
  }
  return tiles;
}

TEST(VisibleBlocksTest, SlidingWindowShowsExactlyItsKeys) {
  for (const QueryTile& tile : Tiles()) {
    for (const int window : kWindows) {
      SCOPED_TRACE(::testing::Message()
                   << tile.rows << " rows from " << tile.first_position
                   << ", window " << window);
      ASSERT_EQ(SeenByLayout(SlidingWindowPattern{window}, tile, 0),
                SeenByRule(tile, window));
    }
  }
}

TEST(VisibleBlocksTest, WindowOfALayerNarrowsEveryPattern) {
  for (const QueryTile& tile : Tiles()) {
    for (const int window : kWindows) {
      ASSERT_EQ(SeenByLayout(DensePattern(), tile, window),
                SeenByRule(tile, window));
      ASSERT_EQ(SeenByLayout(SlidingWindowPattern{100}, tile, window),
                SeenByRule(tile, std::min(window, 100)));
    }
  }
}

TEST(VisibleBlocksTest, SlidingWindowLeavesBlocksBehindItUnvisited) {
  std::vector<BlockRange> ranges;
  VisibleBlocks(SlidingWindowPattern{70}, Tile(64000, 64), kBlockTokens,
                ranges);
  ASSERT_EQ(ranges.size(), 1);
  // The first row sees from 63931 on.
  EXPECT_EQ(ranges[0].begin, 998);
  EXPECT_EQ(ranges[0].end, 1001);
}

TEST(PatternSpecTest, NamesAreThoseOfTheApi) {
  EXPECT_EQ(PatternName(DensePattern()), "dense");
  EXPECT_EQ(PatternName(SlidingWindowPattern{7}), "sliding_window");
}

}  // namespace
}  // namespace sparseserve
