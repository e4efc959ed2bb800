#include "server/scheduling/recall_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const int kDense = static_cast<int>(PatternSpec(DensePattern()).index());
const int kNear = static_cast<int>(PatternSpec(SinkWindowPattern()).index());

TEST(RecallRowsTest, OneRowIsDrawnFromEachPartOfAPrompt) {
  for (const int tokens : {16, 17, 100, 8191}) {
    const std::vector<int> rows = RecallRows(tokens, 3);
    ASSERT_THAT(rows, SizeIs(16));
    for (int part = 0; part < 16; ++part) {
      EXPECT_GE(rows[part], part * tokens / 16);
      EXPECT_LT(rows[part], (part + 1) * tokens / 16);
    }
  }
}

TEST(RecallRowsTest, AShorterPromptHasAllOfItsRows) {
  EXPECT_THAT(RecallRows(1, 3), ElementsAre(0));
  EXPECT_THAT(RecallRows(5, 3), ElementsAre(0, 1, 2, 3, 4));
}

TEST(RecallRowsTest, SeedsDrawOtherRowsAndNoPlaceOfABlockIsLeftOut) {
  EXPECT_EQ(RecallRows(4096, 3), RecallRows(4096, 3));
  EXPECT_NE(RecallRows(4096, 3), RecallRows(4096, 4));
  std::set<int> places;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (const int row : RecallRows(1024, seed << 32)) places.insert(row % 64);
  }
  EXPECT_THAT(places, SizeIs(64));
}

// Two layers of two heads; the second layer follows kNear where asked.
FollowedHeads Heads(bool in_prompt, bool in_output) {
  const std::vector<int> dense(4, kDense);
  const std::vector<int> near = {kDense, kDense, kNear, kNear};
  return {in_prompt ? near : dense, in_output ? near : dense};
}

// A slice of `count` tokens at `position`, of a prompt of 100.
StepSlice SliceAt(int position, int count) {
  static const std::vector<TokenId> kTokens(100);
  StepSlice slice;
  slice.phase = position < 100 ? Phase::kPrefill : Phase::kDecode;
  slice.first_position = position;
  slice.tokens = absl::MakeConstSpan(kTokens).first(count);
  return slice;
}

// Positions that a slice is asked for, each answered with `value`.
std::vector<int> Asked(RecallSampler& sampler, StepSlice slice,
                       float value = 1.0f) {
  sampler.Ask(slice);
  EXPECT_EQ(slice.recall.size(), slice.recall_rows.size() * 4);
  std::fill(slice.recall.begin(), slice.recall.end(), value);
  std::vector<int> positions;
  for (const int row : slice.recall_rows) {
    EXPECT_LT(row, static_cast<int>(slice.tokens.size()));
    positions.push_back(slice.first_position + row);
  }
  sampler.Take();
  return positions;
}

TEST(RecallSamplerTest, ChunksAreAskedForTheRowsThatTheyHold) {
  RecallSampler sampler(Heads(true, true), 100, 5);
  std::vector<int> asked;
  for (const int chunk : {0, 32, 64, 96}) {
    for (const int row : Asked(sampler, SliceAt(chunk, chunk < 96 ? 32 : 4))) {
      asked.push_back(row);
    }
  }
  EXPECT_EQ(asked, RecallRows(100, 5));
}

TEST(RecallSamplerTest, EverySixteenthRowOfTheOutputIsAskedFor) {
  RecallSampler sampler(Heads(true, true), 100, 5);
  std::vector<int> asked;
  for (int position = 100; position < 140; ++position) {
    for (const int row : Asked(sampler, SliceAt(position, 1))) {
      asked.push_back(row);
    }
  }
  EXPECT_THAT(asked, ElementsAre(100, 116, 132));
}

TEST(RecallSamplerTest, AnEndlessOutputIsNotAskedForEver) {
  RecallSampler sampler(Heads(false, true), 100, 5);
  for (int position = 100; position < 100 + 16 * 80; ++position) {
    Asked(sampler, SliceAt(position, 1));
  }
  ASSERT_TRUE(sampler.estimate().has_value());
  EXPECT_EQ(sampler.estimate()->rows, RecallSampler::kMaxOutputRows);
}

TEST(RecallSamplerTest, PhasesThatThePatternLeavesAloneAreNotAsked) {
  RecallSampler prompt(Heads(true, false), 100, 5);
  EXPECT_THAT(Asked(prompt, SliceAt(0, 100)), SizeIs(16));
  EXPECT_THAT(Asked(prompt, SliceAt(100, 1)), IsEmpty());
  RecallSampler output(Heads(false, true), 100, 5);
  EXPECT_THAT(Asked(output, SliceAt(0, 100)), IsEmpty());
  EXPECT_FALSE(output.estimate().has_value());
  EXPECT_THAT(Asked(output, SliceAt(100, 1)), SizeIs(1));
  EXPECT_EQ(output.estimate()->rows, 1);
}

TEST(RecallSamplerTest, WhatASliceThatFailedSaidIsDropped) {
  RecallSampler sampler(Heads(true, true), 100, 5);
  StepSlice failed = SliceAt(0, 64);
  sampler.Ask(failed);
  std::fill(failed.recall.begin(), failed.recall.end(), 0.0f);
  EXPECT_EQ(Asked(sampler, SliceAt(0, 100)), RecallRows(100, 5));
  EXPECT_EQ(sampler.estimate()->mean, 1);
}

TEST(RecallSamplerTest, SharesAreKeptByWhatTheirHeadFollows) {
  RecallSampler sampler(Heads(true, true), 100, 5);
  StepSlice slice = SliceAt(0, 100);
  sampler.Ask(slice);
  for (size_t i = 0; i < slice.recall.size(); ++i) {
    slice.recall[i] = i % 4 < 2 ? 1.0000001f : 0.25f;
  }
  sampler.Take();
  EXPECT_THAT(sampler.shares(kDense), SizeIs(32));
  EXPECT_THAT(sampler.shares(kDense), Each(1.0f));  // and no more
  EXPECT_THAT(sampler.shares(kNear), SizeIs(32));
  EXPECT_THAT(sampler.shares(kNear), Each(0.25f));
  EXPECT_EQ(sampler.estimate()->mean, 0.625);
  EXPECT_EQ(sampler.estimate()->p5, 0.25);
}

TEST(RecallSamplerTest, WhatIsNoShareIsLeftOutOfTheEstimateAndKeptForCounting) {
  RecallSampler sampler(Heads(true, true), 100, 5);
  StepSlice slice = SliceAt(0, 100);
  sampler.Ask(slice);
  ASSERT_THAT(slice.recall, SizeIs(64));
  const float faults[] = {std::numeric_limits<float>::quiet_NaN(), 1.5f, -0.5f,
                          std::numeric_limits<float>::infinity()};
  for (int i = 0; i < 64; ++i) {
    slice.recall[i] = i % 4 == 3 ? faults[i / 4 % 4] : 0.5f;
  }
  sampler.Take();
  EXPECT_EQ(sampler.estimate()->mean, 0.5);
  EXPECT_EQ(sampler.estimate()->p5, 0.5);
  EXPECT_THAT(sampler.shares(kNear), ::testing::Contains(1.5f).Times(4));

  RecallSampler nothing(Heads(true, true), 100, 5);
  EXPECT_FALSE(Asked(nothing, SliceAt(0, 100), faults[0]).empty());
  EXPECT_FALSE(nothing.estimate().has_value());
}

// Of 64 shares 1/64 ... 64/64 the 4th is the first that 5 % do not exceed.
TEST(RecallSamplerTest, TheFifthPercentileIsOfTheNearestRank) {
  RecallSampler sampler(Heads(true, true), 100, 5);
  StepSlice slice = SliceAt(0, 100);
  sampler.Ask(slice);
  ASSERT_THAT(slice.recall, SizeIs(64));
  for (int i = 0; i < 64; ++i) {
    slice.recall[i] = static_cast<float>(i * 37 % 64 + 1) / 64;
  }
  sampler.Take();
  EXPECT_EQ(sampler.estimate()->p5, 4.0 / 64);
  EXPECT_EQ(sampler.estimate()->mean, 65.0 / 128);
}

}  // namespace
}  // namespace sparseserve
