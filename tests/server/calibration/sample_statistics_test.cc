#include "server/calibration/sample_statistics.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(SampleStatisticsTest, QuantilesLieBetweenNeighbours) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_EQ(QuantileOf(values, 0), 1);
  EXPECT_EQ(QuantileOf(values, 1), 4);
  EXPECT_EQ(QuantileOf(values, 0.5), 2.5);
  EXPECT_EQ(QuantileOf({7}, 0.3), 7);
}

// By hand: mean 3, variance 10 / 4, t of 4 degrees 2.132.
TEST(SampleStatisticsTest, TheBoundIsStudents) {
  const std::vector<double> values = {1, 2, 3, 4, 5};
  EXPECT_NEAR(UpperBoundOfMean(values), 3 + 2.132 * 0.70711, 1e-4);
  const std::vector<double> alike = {2, 2, 2};
  EXPECT_EQ(UpperBoundOfMean(alike), 2);
}

TEST(SampleStatisticsTest, OneValueBoundsLittle) {
  const std::vector<double> one = {0.5};
  EXPECT_EQ(UpperBoundOfMean(one), 5);
}

// Of samples of 6 normal values the bound is above the mean in 95 %, and of 50
// likewise, where the table has ended.
TEST(SampleStatisticsTest, TheBoundHoldsAsOftenAsItSays) {
  std::mt19937 random(1);
  for (const int size : {6, 50}) {
    std::normal_distribution<double> draw(1, 0.5);
    int held = 0;
    constexpr int kTrials = 20'000;
    for (int trial = 0; trial < kTrials; ++trial) {
      std::vector<double> values(size);
      for (double& value : values) value = draw(random);
      held += UpperBoundOfMean(values) >= 1;
    }
    EXPECT_NEAR(static_cast<double>(held) / kTrials, 0.95, 0.006) << size;
  }
}

}  // namespace
}  // namespace sparseserve
