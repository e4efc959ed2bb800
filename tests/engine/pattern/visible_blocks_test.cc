#include "engine/pattern/visible_blocks.h"

#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(VisibleBlocksTest, DenseSeesEveryBlockUpToItsOwn) {
  for (const int query_block : {0, 1, 7}) {
    std::vector<BlockRange> ranges = {{3, 4}};  // what was there goes
    VisibleBlocks(DensePattern(), query_block, ranges);
    ASSERT_EQ(ranges.size(), 1);
    EXPECT_EQ(ranges[0].begin, 0);
    EXPECT_EQ(ranges[0].end, query_block + 1);
  }
}

TEST(PatternSpecTest, NamesAreThoseOfTheApi) {
  EXPECT_EQ(PatternName(DensePattern()), "dense");
}

}  // namespace
}  // namespace sparseserve
