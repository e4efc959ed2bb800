#include "engine/pattern/kept_blocks.h"

#include <vector>

#include "engine/layout/layout_builder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const SelectionRule kRule = PageBoundRule{4, 1, 1};

// A row in block 9 that visits blocks 0, 3, 4 and its own.
BlockLayout Chosen() {
  LayoutBuilder builder(1);
  builder.AddTile({.rows = 1, .first_position = 580});
  builder.Assign(0, builder.AddList({{0, 1}, {3, 5}, {9, 10}}));
  return builder.layout();
}

std::vector<int32_t> Blocks(absl::Span<const BlockRange> ranges) {
  std::vector<int32_t> blocks;
  for (const BlockRange& range : ranges) {
    for (int32_t block = range.begin; block < range.end; ++block) {
      blocks.push_back(block);
    }
  }
  return blocks;
}

TEST(KeptBlocksTest, KeepsRangesAsTheyAre) {
  KeptBlocks kept;
  const std::vector<BlockRange> ranges = {{0, 1}, {3, 5}, {9, 10}};
  kept.Keep(2, 580, kRule, ranges);
  EXPECT_THAT(Blocks(kept.Find(2, 581, 16, kRule)), ElementsAre(0, 3, 4, 9));
  EXPECT_THAT(kept.Find(1, 581, 16, kRule), IsEmpty());
}

TEST(KeptBlocksTest, AChoiceStandsForTheRestOfItsPeriod) {
  KeptBlocks kept;
  EXPECT_THAT(kept.Find(5, 581, 16, kRule), IsEmpty());
  kept.Keep(5, 580, kRule, Chosen(), 0);
  for (const int32_t position : {581, 590, 591}) {
    EXPECT_THAT(Blocks(kept.Find(5, position, 16, kRule)),
                ElementsAre(0, 3, 4, 9));
  }
  for (const int32_t position : {592, 608, 575}) {
    EXPECT_THAT(kept.Find(5, position, 16, kRule), IsEmpty());
  }
  EXPECT_THAT(kept.Find(5, 584, 4, kRule), IsEmpty());
  EXPECT_THAT(kept.Find(5, 581, 1, kRule), IsEmpty());
}

// Where it was made the row chooses again, and before it, too.
TEST(KeptBlocksTest, ARowThatWasSetBackToItsChoiceChooses) {
  KeptBlocks kept;
  kept.Keep(0, 580, kRule, Chosen(), 0);
  EXPECT_THAT(kept.Find(0, 580, 64, kRule), IsEmpty());
  EXPECT_THAT(kept.Find(0, 579, 64, kRule), IsEmpty());
}

TEST(KeptBlocksTest, RowsThatRunAgainDropWhatTheyChose) {
  KeptBlocks kept;
  kept.Keep(0, 580, kRule, Chosen(), 0);
  kept.Keep(1, 583, kRule, Chosen(), 0);
  kept.ForgetFrom(581);
  EXPECT_THAT(kept.Find(0, 585, 64, kRule), Not(IsEmpty()));
  EXPECT_THAT(kept.Find(1, 585, 64, kRule), IsEmpty());
  kept.ForgetFrom(580);
  EXPECT_THAT(kept.Find(0, 585, 64, kRule), IsEmpty());
}

TEST(KeptBlocksTest, HeadsAndRulesHaveChoicesOfTheirOwn) {
  KeptBlocks kept;
  kept.Keep(3, 580, kRule, Chosen(), 0);
  for (const int64_t head : {0, 2, 4, 1000}) {
    EXPECT_THAT(kept.Find(head, 581, 64, kRule), IsEmpty());
  }
  for (const SelectionRule& other :
       {SelectionRule(PageBoundRule{5, 1, 1}),
        SelectionRule(CandidateMassRule{{4, 1, 1}, 0.5f})}) {
    EXPECT_THAT(kept.Find(3, 581, 64, other), IsEmpty());
  }
  EXPECT_THAT(kept.Find(3, 581, 64, kRule), Not(IsEmpty()));
  kept.Forget();
  EXPECT_THAT(kept.Find(3, 581, 64, kRule), IsEmpty());
}

}  // namespace
}  // namespace sparseserve
