#include "engine/layout/layout_builder.h"

#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

QueryTile Tile(int first_position, int rows) {
  QueryTile tile;
  tile.first_position = first_position;
  tile.rows = rows;
  return tile;
}

KeyPredicate Window(int tokens) { return {.window_tokens = tokens}; }

TEST(LayoutBuilderTest, SplitsVisibleBlocksIntoFullAndPartial) {
  LayoutBuilder builder(1);
  builder.AddTile(Tile(130, 5));
  builder.Assign(0, builder.AddList({{{0, 3}}}));
  EXPECT_THAT(builder.layout().full_blocks, ElementsAre(0, 1));
  EXPECT_THAT(builder.layout().partial_blocks, ElementsAre(2));
  EXPECT_EQ(builder.ListBlocks(0), 3);
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, OwnBlockIsPartialEvenForItsLastRow) {
  LayoutBuilder builder(1);
  builder.AddTile(Tile(127, 1));
  builder.Assign(0, builder.AddList({{{0, 2}}}));
  EXPECT_THAT(builder.layout().full_blocks, ElementsAre(0));
  EXPECT_THAT(builder.layout().partial_blocks, ElementsAre(1));
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, BlocksAfterTheTileAreLeftOut) {
  LayoutBuilder builder(1);
  builder.AddTile(Tile(0, 64));
  builder.Assign(0, builder.AddList({{{0, 9}}}));
  EXPECT_EQ(builder.ListBlocks(0), 1);
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, HeadsShareAListOrHaveTheirOwn) {
  // First block and a window for heads 0 and 2, everything for head 1.
  LayoutBuilder builder(3);
  builder.AddTile(Tile(640, 64));
  const int32_t sparse = builder.AddList({{{0, 1}, {9, 11}}});
  const int32_t dense = builder.AddList({{{0, 11}}});
  builder.Assign(0, sparse);
  builder.Assign(1, dense);
  builder.Assign(2, sparse);
  EXPECT_THAT(builder.layout().list_of, ElementsAre(0, 1, 0));
  EXPECT_EQ(builder.ListBlocks(sparse), 3);
  EXPECT_EQ(builder.ListBlocks(dense), 11);
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, BlocksAtTheWindowsEdgeArePartial) {
  LayoutBuilder builder(1);
  // Rows 330 ... 339 see from 230 ... 239 on: in block 3, which no row sees
  // whole. Blocks 0 to 2 are behind every window.
  builder.AddTile(Tile(330, 10));
  builder.Assign(0, builder.AddListOf(Window(101)));
  EXPECT_THAT(builder.layout().full_blocks, ElementsAre(4));
  EXPECT_THAT(builder.layout().partial_blocks, ElementsAre(3, 5));
  EXPECT_EQ(*builder.layout().PredicateOf(0), Window(101));
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, WindowThatEndsOnABorderLeavesFullBlocks) {
  LayoutBuilder builder(1);
  // The only row sees 128 ... 256: block 2 from its first key on.
  builder.AddTile(Tile(256, 1));
  builder.Assign(0, builder.AddListOf(Window(129)));
  EXPECT_THAT(builder.layout().full_blocks, ElementsAre(2, 3));
  EXPECT_THAT(builder.layout().partial_blocks, ElementsAre(4));
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, WholeBlocksOfSinksAreFull) {
  LayoutBuilder builder(1);
  // Keys 0 ... 129, and from 571 ... 634 on.
  builder.AddTile(Tile(640, 64));
  builder.Assign(0, builder.AddListOf({SinkWindowKeys{130, 70}}));
  EXPECT_THAT(builder.layout().full_blocks, ElementsAre(0, 1));
  EXPECT_THAT(builder.layout().partial_blocks, ElementsAre(2, 8, 9, 10));
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, StridesHaveFullBlocksInTheirWindowAlone) {
  LayoutBuilder builder(1);
  builder.AddTile(Tile(1024, 64));
  builder.Assign(0, builder.AddListOf({StridedKeys{256}}));
  EXPECT_THAT(builder.layout().full_blocks, ElementsAre(13, 14, 15));
  EXPECT_THAT(builder.layout().partial_blocks, ElementsAre(0, 4, 8, 12, 16));
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, ListsOfOnePredicateShareIt) {
  LayoutBuilder builder(3);
  builder.AddTile(Tile(640, 64));
  builder.Assign(0, builder.AddListOf(Window(70)));
  builder.Assign(1, builder.AddListOf({}));
  builder.Assign(2, builder.AddListOf({StridedKeys{256}}));
  builder.AddTile(Tile(704, 64));
  for (int head = 0; head < 3; ++head) {
    builder.Assign(head, builder.AddListOf(Window(70)));
  }
  EXPECT_THAT(builder.layout().predicate_of, ElementsAre(0, -1, 1, 0, 0, 0));
  EXPECT_THAT(builder.layout().predicates,
              ElementsAre(Window(70), KeyPredicate{StridedKeys{256}}));
}

TEST(LayoutBuilderTest, WindowNarrowsWhatAPatternShows) {
  LayoutBuilder builder(1);
  builder.AddTile(Tile(640, 64));
  builder.Assign(0, builder.AddList({{{0, 1}, {8, 11}}}, Window(70)));
  EXPECT_THAT(builder.layout().full_blocks, ElementsAre());
  EXPECT_THAT(builder.layout().partial_blocks, ElementsAre(8, 9, 10));
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, HeadsSkipOnlyWhereTheyMay) {
  LayoutBuilder builder(2);
  const auto add = [&builder](int first) {
    builder.AddTile(Tile(first, 64));
    const int32_t list = builder.AddListOf({});
    builder.Assign(0, list);
    builder.Assign(1, list);
  };
  add(0);
  EXPECT_TRUE(builder.layout().skip_below.empty());
  add(64);
  builder.AllowSkip(1, -7);
  add(128);
  EXPECT_THAT(builder.layout().skip_below,
              ElementsAre(kNoSkip, kNoSkip, kNoSkip, -7, kNoSkip, kNoSkip));
  EXPECT_EQ(builder.layout().Validate(), absl::OkStatus());
  LayoutBuilder copy(2);
  copy.CopyFrom(builder.layout());
  copy.AssignOwn(1, 1, {{{0, 1}}});
  EXPECT_EQ(copy.layout().skip_below, builder.layout().skip_below);
  builder.Clear();
  EXPECT_TRUE(builder.layout().skip_below.empty());
}

TEST(LayoutBuilderTest, ClearForgetsEverything) {
  LayoutBuilder builder(2);
  builder.AddTile(Tile(70, 3));
  const int32_t list = builder.AddList({{{0, 2}}});
  builder.Assign(0, list);
  builder.Assign(1, list);
  builder.Clear();
  EXPECT_EQ(builder.layout().lists(), 0);
  EXPECT_THAT(builder.layout().predicates, IsEmpty());
  EXPECT_THAT(builder.layout().predicate_of, IsEmpty());
  EXPECT_THAT(builder.layout().tiles, IsEmpty());
  EXPECT_TRUE(builder.layout().Validate().ok());
}

TEST(LayoutBuilderTest, ReturnsToWhatItWasACopyOf) {
  LayoutBuilder from(2);
  for (const int first : {200, 264}) {
    from.AddTile(Tile(first, 10));
    from.Assign(0, from.AddList({{0, 4}}));
    from.Assign(1, from.AddListOf(Window(80)));
  }
  LayoutBuilder to(2);
  to.CopyFrom(from.layout());
  // The second time nothing of the first is left.
  for (const int block : {0, 2}) {
    to.ReturnTo(from.layout());
    to.AssignOwn(0, 0, {{block, block + 1}, {3, 4}});
    EXPECT_EQ(to.layout().lists(), 5);
    EXPECT_EQ(to.layout().list_of, (std::vector<int32_t>{4, 1, 2, 3}));
    EXPECT_EQ(*to.layout().PredicateOf(3), Window(80));
    EXPECT_EQ(to.layout().PredicateOf(4), nullptr);
    EXPECT_EQ(to.layout().full_blocks.back(), block);
    EXPECT_EQ(to.layout().partial_blocks.back(), 3);
    EXPECT_EQ(to.layout().Validate(), absl::OkStatus());
  }
  to.ReturnTo(from.layout());
  EXPECT_EQ(to.layout().list_of, from.layout().list_of);
  EXPECT_EQ(to.layout().full_blocks, from.layout().full_blocks);
  EXPECT_EQ(to.layout().partial_blocks, from.layout().partial_blocks);
}

TEST(LayoutBuilderTest, RandomTilesAndRangesKeepTheInvariants) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const int kv_heads = 1 + random() % 4;
    LayoutBuilder builder(kv_heads);
    for (int t = 0; t < 5; ++t) {
      const int block = random() % 12;
      const int offset = random() % 64;
      builder.AddTile(Tile(block * 64 + offset, 1 + random() % (64 - offset)));
      for (int head = 0; head < kv_heads; ++head) {
        std::vector<BlockRange> ranges;
        int begin = random() % (block + 1);
        while (begin < 14) {
          const int end = begin + 1 + random() % 3;
          ranges.push_back({begin, end});
          begin = end + random() % 4;
        }
        builder.Assign(head,
                       builder.AddList(ranges, Window(random() % 2 * 2000)));
      }
    }
    const absl::Status status = builder.layout().Validate();
    ASSERT_TRUE(status.ok()) << status;
  }
}

}  // namespace
}  // namespace sparseserve
