#include "engine/model/slice_check.h"

#include <memory>
#include <vector>

#include "engine/pattern/attention_choice.h"
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

// A slice of two tokens that any device runs.
class CheckSliceTest : public ::testing::Test {
 protected:
  CheckSliceTest() {
    limits_.vocab_size = 10;
    limits_.context_tokens = 100;
    limits_.kv_pages = 4;
    limits_.attention = {2, 2};
  }
  absl::Status Check(const AttentionChoice& choice,
                     Phase phase = Phase::kPrefill) {
    StepSlice slice;
    slice.phase = phase;
    slice.tokens = tokens_;
    slice.pages = pages_;
    slice.attention = &choice;
    return CheckSlice(slice, limits_);
  }

  const std::vector<TokenId> tokens_ = {1, 2};
  const std::vector<PageId> pages_ = {0};
  StepLimits limits_;
};

TEST_F(CheckSliceTest, RulesThatTheDeviceDoesNotRunAreNamed) {
  limits_.selection_rules =
      SelectionRuleKinds::Of<AntidiagonalRule, PageBoundRule>();
  EXPECT_EQ(Check({XAttentionPattern()}), absl::OkStatus());
  EXPECT_EQ(Check({PeakWeightPattern()}),
            absl::UnimplementedError(
                "slice of sequence 0: the device does not choose blocks as "
                "peak_weight does"));
  const AttentionChoice map = {
      .map = std::make_shared<const PatternMap>(
          PatternMap::Create({2, 2}, {XAttentionPattern(), MobaPattern()},
                             {0, 0, 0, 1})
              .value())};
  EXPECT_EQ(Check(map).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(CheckSliceTest, OutputRowsThatChooseTogetherNeedADeviceForIt) {
  EXPECT_EQ(Check({QuestPattern()}, Phase::kDecode), absl::OkStatus());
  limits_.selects_for_output_chunks = false;
  EXPECT_EQ(Check({QuestPattern()}, Phase::kDecode).code(),
            absl::StatusCode::kUnimplemented);
  // Of a prompt it chooses nothing.
  EXPECT_EQ(Check({QuestPattern()}), absl::OkStatus());
  EXPECT_EQ(Check({XAttentionPattern()}, Phase::kDecode), absl::OkStatus());
}

TEST_F(CheckSliceTest, CorrectionsNeedADeviceForThem) {
  EXPECT_EQ(Check({DeltaPattern()}), absl::OkStatus());
  limits_.corrects = false;
  EXPECT_EQ(Check({DeltaPattern()}).code(), absl::StatusCode::kUnimplemented);
}

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
