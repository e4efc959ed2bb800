#include "engine/model/slice_check.h"

#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// Two slices; the first writes positions 60 to 69 of pages {0, 1, 2}.
class WritesAreExclusiveTest : public ::testing::Test {
 protected:
  bool Exclusive(const std::vector<PageId>& second_pages, int second_position) {
    slices_[0].tokens = tokens_;
    slices_[0].pages = first_pages_;
    slices_[0].first_position = 60;
    slices_[1].tokens = absl::MakeConstSpan(tokens_).first(1);
    slices_[1].pages = second_pages;
    slices_[1].first_position = second_position;
    const PlannedSlice planned[] = {{&slices_[0], DensePattern()},
                                    {&slices_[1], DensePattern()}};
    return WritesAreExclusive(planned);
  }

  const std::vector<TokenId> tokens_ = std::vector<TokenId>(10, 1);
  std::vector<PageId> first_pages_ = {0, 1, 2};
  StepSlice slices_[2];
};

TEST_F(WritesAreExclusiveTest, PagesOfTheirOwnAre) {
  EXPECT_TRUE(Exclusive({3, 4}, 64));
}

TEST_F(WritesAreExclusiveTest, PageThatBothOnlyReadIs) {
  EXPECT_TRUE(Exclusive({2, 3}, 64));
}

TEST_F(WritesAreExclusiveTest, PageThatBothWriteIsNot) {
  EXPECT_FALSE(Exclusive({3, 1}, 64));
}

TEST_F(WritesAreExclusiveTest, PageThatOneWritesAndTheOtherReadsIsNot) {
  EXPECT_FALSE(Exclusive({0, 3}, 64));
  EXPECT_FALSE(Exclusive({3, 2}, 64) && Exclusive({1, 3}, 64));
}

TEST_F(WritesAreExclusiveTest, PageWrittenTwiceByOneSliceIsNot) {
  first_pages_ = {0, 0, 2};
  EXPECT_FALSE(Exclusive({3, 4}, 64));
}

}  // namespace
}  // namespace sparseserve
