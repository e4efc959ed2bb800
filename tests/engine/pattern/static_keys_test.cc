#include "engine/pattern/static_keys.h"

#include <algorithm>
#include <string>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/static_rules.h"

namespace sparseserve {
namespace {

using testing::RowPlace;
using testing::StaticCase;
using testing::StaticCases;
using testing::StaticRuleKeys;
using testing::VisibleKey;

constexpr int kBlock = kPageTokens;

struct Prompt {
  int tokens = 0;
  Phase phase = Phase::kPrefill;
};

// The list of a tile within a layer's window.
BlockLayout LayoutOf(const PatternSpec& pattern, const QueryTile& tile,
                     const Prompt& prompt, int layer_window) {
  LayoutBuilder builder(1);
  builder.AddTile(tile);
  const TilePlace place = {.phase = prompt.phase,
                           .query_block = tile.first_position / kBlock,
                           .last_prompt_block = (prompt.tokens - 1) / kBlock};
  builder.Assign(
      0, builder.AddListOf(StaticKeys(pattern, place).Within(layer_window)));
  EXPECT_EQ(builder.layout().Validate(), absl::OkStatus());
  return builder.layout();
}

// The keys that a kernel lets a row see: blocks and predicate.
std::vector<int64_t> SeenByLayout(const BlockLayout& layout, int position) {
  std::vector<int64_t> seen;
  for (const int block : layout.full_blocks) {
    for (int i = 0; i < kBlock; ++i) seen.push_back(block * kBlock + i);
  }
  const KeyPredicate* predicate = layout.PredicateOf(0);
  for (const int block : layout.partial_blocks) {
    for (int i = 0; i < kBlock; ++i) {
      const int64_t key = block * kBlock + i;
      if (key <= position &&
          (predicate == nullptr || predicate->Sees(position, key))) {
        seen.push_back(key);
      }
    }
  }
  std::sort(seen.begin(), seen.end());
  return seen;
}

std::vector<int64_t> SeenByRule(const PatternSpec& pattern, const RowPlace& row,
                                int layer_window) {
  std::vector<int64_t> seen;
  for (const VisibleKey& key : StaticRuleKeys(pattern, row)) {
    if (layer_window == 0 || key.key > row.position - layer_window) {
      seen.push_back(key.key);
    }
  }
  return seen;
}

// Each (row, key) of a tile by rule and by list, and no block without a key.
void ExpectEqual(const StaticCase& c, const QueryTile& tile,
                 const Prompt& prompt, int layer_window) {
  SCOPED_TRACE(::testing::Message()
               << c.name << ", " << tile.rows << " rows from "
               << tile.first_position << " of " << prompt.tokens
               << ", layer window " << layer_window);
  const BlockLayout layout = LayoutOf(c.pattern, tile, prompt, layer_window);
  for (int r = 0; r < tile.rows; ++r) {
    const int position = tile.first_position + r;
    const std::vector<int64_t> seen = SeenByLayout(layout, position);
    const RowPlace row = {position, prompt.phase == Phase::kDecode,
                          prompt.tokens};
    ASSERT_EQ(seen, SeenByRule(c.pattern, row, layer_window))
        << "position " << position;
    ASSERT_EQ(seen.back(), position);
  }
}

// Tiles of rows [begin, end).
std::vector<QueryTile> Tiles(int begin, int end) {
  std::vector<QueryTile> tiles;
  for (int position = begin; position < end;) {
    QueryTile tile;
    tile.first_position = position;
    tile.rows = std::min(end, (position / kBlock + 1) * kBlock) - position;
    tiles.push_back(tile);
    position += tile.rows;
  }
  return tiles;
}

TEST(StaticKeysTest, ListsShowExactlyTheRulesKeysOfWholePrompts) {
  for (const StaticCase& c : StaticCases()) {
    testing::OracleReport report(std::string(PatternName(c.pattern)), "sets");
    for (const int length : c.lengths) {
      report.AddCase();
      report.AddRows(length, 0);
      for (const QueryTile& tile : Tiles(0, length)) {
        ExpectEqual(c, tile, {length}, 0);
      }
    }
  }
}

TEST(StaticKeysTest, ListsShowExactlyTheRulesKeysOfChunks) {
  for (const StaticCase& c : StaticCases()) {
    for (const int begin : {1, 100, 311, 448}) {
      for (const int rows : {1, 2, 40, 90}) {
        for (const QueryTile& tile : Tiles(begin, begin + rows)) {
          ExpectEqual(c, tile, {600}, 0);
        }
      }
    }
  }
}

TEST(StaticKeysTest, ListsShowExactlyTheRulesKeysOfDecodeRows) {
  for (const StaticCase& c : StaticCases()) {
    for (const int position : {1, 63, 64, 127, 200, 513, 699}) {
      ExpectEqual(c, Tiles(position, position + 1)[0],
                  {std::max(position - 5, 1), Phase::kDecode}, 0);
    }
  }
}

TEST(StaticKeysTest, WindowOfALayerNarrowsEveryPattern) {
  for (const StaticCase& c : StaticCases()) {
    for (const int window : {1, 64, 65, 150}) {
      for (const QueryTile& tile : Tiles(290, 420)) {
        ExpectEqual(c, tile, {420}, window);
      }
    }
  }
}

TEST(StaticKeysTest, BlocksThatNoRowSeesAreNotListed) {
  // 1,000 blocks of context.
  const QueryTile tile = Tiles(63936, 64000)[0];
  const struct {
    PatternSpec pattern;
    int most_blocks;
  } kCases[] = {{SlidingWindowPattern{64}, 2},
                {SinkWindowPattern{4, 640}, 1 + 11},
                {TriShapePattern{4, 640, 2}, 1 + 11},
                {StridedPattern{640}, 11 + 99},
                {StridedPattern{640, FactorizedPart::kSummary}, 1 + 99},
                {FixedPattern{640, 8}, 10 + 100},
                {DilatedWindowPattern{128, 5}, 5},
                {ChunkedLocalPattern{1024}, 16}};
  for (const auto& c : kCases) {
    const BlockLayout layout = LayoutOf(c.pattern, tile, {90000}, 0);
    EXPECT_LE(layout.ListBlocks(0), c.most_blocks) << PatternName(c.pattern);
    EXPECT_GE(layout.ListBlocks(0), 2) << PatternName(c.pattern);
  }
}

TEST(StaticKeysTest, PatternsMadeOfAnotherShowWhatThatShows) {
  const TriShapePattern base = {4, 100, 2};
  for (const int block : {3, 9}) {
    const TilePlace place = {.query_block = block, .last_prompt_block = 10};
    EXPECT_EQ(StaticKeys(DeltaPattern{base}, place), StaticKeys(base, place));
    EXPECT_EQ(StaticKeys(SkipSoftmaxPattern{base}, place),
              StaticKeys(base, place));
  }
}

TEST(StaticKeysTest, TriShapeIsNotDenseWhereTheEndIsUnknown) {
  const PatternSpec pattern = TriShapePattern{4, 100, 2};
  EXPECT_FALSE(StaticKeys(pattern, {.query_block = 9}).IsCausality());
  const TilePlace end = {.query_block = 9, .last_prompt_block = 10};
  EXPECT_TRUE(StaticKeys(pattern, end).IsCausality());
  const TilePlace before = {.query_block = 9, .last_prompt_block = 11};
  EXPECT_FALSE(StaticKeys(pattern, before).IsCausality());
  const TilePlace decode = {.phase = Phase::kDecode, .query_block = 9};
  EXPECT_TRUE(StaticKeys(pattern, decode).IsCausality());
}

}  // namespace
}  // namespace sparseserve
