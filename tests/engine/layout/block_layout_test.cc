#include "engine/layout/block_layout.h"

#include <cmath>
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// Two tiles of one slice, positions 128 ... 191 and 192 ... 199, with two KV
// heads. Heads of the first tile have lists of their own.
BlockLayout ValidLayout() {
  BlockLayout layout;
  layout.kv_heads = 2;
  layout.tiles = {{.first_row = 0, .rows = 64, .first_position = 128},
                  {.first_row = 64, .rows = 8, .first_position = 192}};
  layout.list_of = {0, 1, 2, 2};
  layout.full_offsets = {0, 2, 2, 5};
  layout.full_blocks = {0, 1, 0, 1, 2};
  layout.partial_offsets = {0, 1, 2, 3};
  layout.partial_blocks = {2, 2, 3};
  return layout;
}

TEST(BlockLayoutTest, AcceptsWhatKeepsEveryInvariant) {
  EXPECT_EQ(ValidLayout().Validate(), absl::OkStatus());
  BlockLayout empty;
  empty.kv_heads = 1;
  EXPECT_EQ(empty.Validate(), absl::OkStatus());
}

TEST(BlockLayoutTest, AcceptsAPartialBlockThatCouldBeFull) {
  BlockLayout layout = ValidLayout();
  layout.full_offsets = {0, 1, 1, 4};
  layout.full_blocks = {0, 0, 1, 2};
  layout.partial_offsets = {0, 2, 3, 4};
  layout.partial_blocks = {1, 2, 2, 3};
  EXPECT_EQ(layout.Validate(), absl::OkStatus());
}

TEST(BlockLayoutTest, AcceptsWindowsThatKeepEveryInvariant) {
  BlockLayout layout = ValidLayout();
  // The last row of tile 0 stands at 191, that of tile 1 at 199.
  layout.predicates = {
      {.window_tokens = 192}, {.window_tokens = 64}, {.window_tokens = 200}};
  layout.predicate_of = {0, 1, 2};
  EXPECT_EQ(layout.Validate(), absl::OkStatus());
}

TEST(BlockLayoutTest, AcceptsWhatMaySkip) {
  BlockLayout layout = ValidLayout();
  layout.skip_below = {0, -HUGE_VALF, -7.5f, -1};
  EXPECT_EQ(layout.Validate(), absl::OkStatus());
}

struct BrokenCase {
  std::string name;
  std::function<void(BlockLayout&)> breaks;
  std::string message;
};

class BrokenBlockLayoutTest : public testing::TestWithParam<BrokenCase> {};

TEST(BlockLayoutTest, AListMayBeEmptyIfItsPredicateShowsNothing) {
  BlockLayout layout = ValidLayout();
  layout.partial_offsets = {0, 1, 1, 2};
  layout.partial_blocks = {2, 3};
  layout.predicates = {{NoKeys()}};
  layout.predicate_of = {-1, 0, -1};
  EXPECT_EQ(layout.Validate(), absl::OkStatus());
}

TEST_P(BrokenBlockLayoutTest, IsNamed) {
  BlockLayout layout = ValidLayout();
  GetParam().breaks(layout);
  const absl::Status status = layout.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, BrokenBlockLayoutTest,
    testing::ValuesIn<BrokenCase>({
        {"SkipSize",
         [](BlockLayout& l) {
           l.skip_below = {-1, -1};
         },
         "skip_below has 2 entries for 2 tiles and 2 KV heads"},
        {"SkipAbove",
         [](BlockLayout& l) {
           l.skip_below = {-1, -1, -1, 0.5f};
         },
         "a skip_below is 0.5; allowed: at most 0"},
        {"SkipNan",
         [](BlockLayout& l) {
           l.skip_below = {-1, -1, -1, std::nanf("")};
         },
         "a skip_below is nan"},
        {"BlockTokens", [](BlockLayout& l) { l.block_tokens = 0; },
         "block_tokens is 0"},
        {"KvHeads", [](BlockLayout& l) { l.kv_heads = 0; }, "kv_heads is 0"},
        {"ListPerTileAndHead", [](BlockLayout& l) { l.list_of.pop_back(); },
         "list_of has 3 entries for 2 tiles"},
        {"NoOffsets", [](BlockLayout& l) { l.full_offsets.clear(); },
         "full offsets do not begin with 0"},
        {"FirstOffset", [](BlockLayout& l) { l.partial_offsets[0] = 1; },
         "partial offsets do not begin with 0"},
        {"DescendingOffset", [](BlockLayout& l) { l.full_offsets[2] = 1; },
         "full offset 2 is 1, below its predecessor 2"},
        {"LastOffset", [](BlockLayout& l) { l.full_offsets[3] = 4; },
         "full offsets end at 4, but there are 5 blocks"},
        {"OffsetCounts",
         [](BlockLayout& l) {
           l.full_offsets.push_back(l.full_offsets.back());
         },
         "5 full offsets, but 4 partial ones"},
        {"EmptyList",
         [](BlockLayout& l) {
           l.partial_offsets = {0, 1, 1, 2};
           l.partial_blocks = {2, 3};
         },
         "list 1 is empty"},
        {"NegativeBlock", [](BlockLayout& l) { l.full_blocks[0] = -1; },
         "full block of list 0 is -1"},
        {"RepeatedBlock", [](BlockLayout& l) { l.full_blocks[4] = 1; },
         "full blocks of list 2 do not ascend: 1, 1"},
        {"DescendingBlocks", [](BlockLayout& l) { l.full_blocks[0] = 2; },
         "full blocks of list 0 do not ascend: 2, 1"},
        {"FullAndPartial", [](BlockLayout& l) { l.partial_blocks[0] = 1; },
         "block 1 of list 0 is both full and partial"},
        {"NoRows", [](BlockLayout& l) { l.tiles[1].rows = 0; },
         "tile 1 has 0 rows"},
        {"TooManyRows", [](BlockLayout& l) { l.tiles[0].rows = 65; },
         "tile 0 has 65 rows; allowed: 1 ... 64"},
        {"NegativePosition",
         [](BlockLayout& l) { l.tiles[0].first_position = -64; },
         "none may be negative"},
        {"NegativeSlice", [](BlockLayout& l) { l.tiles[0].slice = -1; },
         "none may be negative"},
        {"BlockBorder", [](BlockLayout& l) { l.tiles[1].first_position = 190; },
         "positions 190 ... 197 crosses a block border"},
        {"UnknownList", [](BlockLayout& l) { l.list_of[3] = 3; },
         "tile 1, KV head 1 names list 3 of 3"},
        {"FullBlockInTheFuture", [](BlockLayout& l) { l.full_blocks[1] = 3; },
         "full block 3 of list 0 ends after position 128 of tile 0"},
        {"FullBlockOfTheTile",
         [](BlockLayout& l) {
           l.full_blocks[1] = 2;
           l.partial_blocks[0] = 1;
         },
         "full block 2 of list 0 ends after position 128 of tile 0"},
        {"PredicatePerList",
         [](BlockLayout& l) {
           l.predicate_of = {-1, -1};
         },
         "2 predicates for 3 lists"},
        {"NegativePredicate",
         [](BlockLayout& l) {
           l.predicate_of = {-1, -2, -1};
         },
         "list 1 names predicate -2 of 0"},
        {"UnknownPredicate",
         [](BlockLayout& l) {
           l.predicates = {{.window_tokens = 64}};
           l.predicate_of = {-1, 1, -1};
         },
         "list 1 names predicate 1 of 1"},
        {"FullBlockAtTheWindowsEdge",
         [](BlockLayout& l) {
           l.predicates = {{.window_tokens = 191}};
           l.predicate_of = {0, -1, -1};
         },
         "full block 0 of list 0 hides a key from a row of tile 0"},
        {"FullBlockWithinAGap",
         [](BlockLayout& l) {
           l.predicates = {{.rule = StridedKeys{63}}};
           l.predicate_of = {0, -1, -1};
         },
         "full block 0 of list 0 hides a key from a row of tile 0"},
        {"PartialBlockBehindTheWindow",
         [](BlockLayout& l) {
           l.predicates = {{.window_tokens = 64}};
           l.predicate_of = {-1, 0, -1};
           l.partial_blocks[1] = 0;
         },
         "partial block 0 of list 1 shows no key to any row of tile 0"},
        {"PartialBlockBetweenSteps",
         [](BlockLayout& l) {
           l.predicates = {{.rule = StridedKeys{128}}};
           l.predicate_of = {-1, -1, 0};
           l.full_offsets = {0, 2, 2, 3};
           l.full_blocks = {0, 1, 2};
           l.partial_offsets = {0, 1, 2, 4};
           l.partial_blocks = {2, 2, 0, 3};
         },
         "partial block 0 of list 2 shows no key to any row of tile 1"},
        {"BlocksOfOtherSizes",
         [](BlockLayout& l) {
           l.block_tokens = 128;
           l.tiles = {{.rows = 8, .first_position = 384}};
           l.list_of = {0, 1};
           l.predicates = {{.window_tokens = 64}};
           l.predicate_of = {0, 0, 0};
         },
         "block_tokens is 128; predicates are for 64"},
        {"PartialBlockInTheFuture",
         [](BlockLayout& l) { l.partial_blocks[1] = 3; },
         "partial block 3 of list 1 begins after position 191 of tile 0"},
    }),
    [](const auto& broken) { return broken.param.name; });

}  // namespace
}  // namespace sparseserve
