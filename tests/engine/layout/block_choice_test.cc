#include "engine/layout/block_choice.h"

#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

TEST(BlockChoiceTest, TakesTheBestAndOfEqualsTheFirst) {
  BlockChoice choice;
  choice.Begin(5);
  choice.TakeBest({0.5f, 0.1f, 0.5f, 0.5f, 0.9f}, 3);
  EXPECT_THAT(choice.chosen(), ElementsAre(1, 0, 1, 0, 1));
}

TEST(BlockChoiceTest, ForcedElementsCountAmongTheBest) {
  BlockChoice choice;
  choice.Begin(4);
  choice.Force(3);
  choice.TakeBest({0.3f, 0.2f, 0.4f, 0.1f}, 2);
  EXPECT_THAT(choice.chosen(), ElementsAre(0, 0, 1, 1));
  choice.Begin(4);
  choice.Force(0);
  choice.Force(1);
  choice.TakeBest({0.3f, 0.2f, 0.4f, 0.1f}, 1);
  EXPECT_THAT(choice.chosen(), ElementsAre(1, 1, 0, 0));
  choice.TakeBest({0.3f, 0.2f, 0.4f, 0.1f}, 9);
  EXPECT_THAT(choice.chosen(), Each(1));
}

// Powers of two, so that sums are exact.
TEST(BlockChoiceTest, TheCrossingElementIsInOrOut) {
  const std::vector<float> scores = {0.125f, 0.5f, 0.25f, 0.125f};
  BlockChoice choice;
  choice.Begin(4);
  choice.TakeMass(scores, 0.7f, Crossing::kIncluded);
  EXPECT_THAT(choice.chosen(), ElementsAre(0, 1, 1, 0));
  choice.Begin(4);
  choice.TakeMass(scores, 0.7f, Crossing::kExcluded);
  EXPECT_THAT(choice.chosen(), ElementsAre(0, 1, 0, 0));
  for (const Crossing crossing : {Crossing::kIncluded, Crossing::kExcluded}) {
    choice.Begin(4);
    choice.TakeMass(scores, 0.75f, crossing);
    EXPECT_THAT(choice.chosen(), ElementsAre(0, 1, 1, 0));
  }
}

TEST(BlockChoiceTest, ForcedElementsCountFirstInTheMass) {
  const std::vector<float> scores = {0.125f, 0.5f, 0.25f, 0.125f};
  BlockChoice choice;
  choice.Begin(4);
  choice.Force(0);
  choice.Force(3);
  choice.TakeMass(scores, 0.7f, Crossing::kIncluded);
  EXPECT_THAT(choice.chosen(), ElementsAre(1, 1, 0, 1));
  choice.Begin(4);
  choice.Force(0);
  choice.Force(3);
  choice.TakeMass(scores, 0.2f, Crossing::kIncluded);
  EXPECT_THAT(choice.chosen(), ElementsAre(1, 0, 0, 1));
}

TEST(BlockChoiceTest, AllAreChosenForAWholeShareAndForGarbage) {
  BlockChoice choice;
  choice.Begin(3);
  choice.TakeMass({1.0f, 0.0f, 0.0f}, 1.0f, Crossing::kIncluded);
  EXPECT_THAT(choice.chosen(), Each(1));
  for (const float garbage : {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity()}) {
    choice.Begin(3);
    choice.TakeMass({1.0f, garbage, 0.0f}, 0.5f, Crossing::kIncluded);
    EXPECT_THAT(choice.chosen(), Each(1));
  }
}

TEST(BlockChoiceTest, NoSmallerSetHasTheMass) {
  std::mt19937 random(7);
  std::exponential_distribution<float> draw;
  BlockChoice choice;
  for (int round = 0; round < 200; ++round) {
    std::vector<float> scores(1 + random() % 40);
    double total = 0;
    for (float& score : scores) total += score = draw(random);
    const float share = 0.01f * static_cast<float>(1 + random() % 98);
    choice.Begin(static_cast<int64_t>(scores.size()));
    choice.TakeMass(scores, share, Crossing::kIncluded);
    double mass = 0;
    float least = std::numeric_limits<float>::infinity();
    float greatest_left = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (choice.chosen()[i] != 0) {
        mass += scores[i];
        least = std::min(least, scores[i]);
      } else {
        greatest_left = std::max(greatest_left, scores[i]);
      }
    }
    EXPECT_GE(mass, share * total * (1 - 1e-12));
    EXPECT_LT(mass - least, share * total);
    EXPECT_GE(least, greatest_left);
  }
}

TEST(BlockChoiceTest, RangesJoinNeighbours) {
  BlockChoice choice;
  choice.Begin(6);
  for (const int index : {0, 1, 3, 5}) choice.Force(index);
  std::vector<BlockRange> ranges = {{7, 9}};
  choice.GetRanges(ranges);
  ASSERT_EQ(ranges.size(), 3);
  EXPECT_EQ(ranges[0].begin, 0);
  EXPECT_EQ(ranges[0].end, 2);
  EXPECT_EQ(ranges[1].begin, 3);
  EXPECT_EQ(ranges[1].end, 4);
  EXPECT_EQ(ranges[2].begin, 5);
  EXPECT_EQ(ranges[2].end, 6);
}

}  // namespace
}  // namespace sparseserve
