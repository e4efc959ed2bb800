#include "engine/layout/attention_sums.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

TEST(AttentionSumsTest, BlocksAreSumsOf64AndTheLastOfTheRest) {
  std::vector<float> blocks = {7};
  SumBlocks(std::vector<float>(130, 0.5f), blocks);
  EXPECT_THAT(blocks, ElementsAre(32, 32, 1));
  SumBlocks(std::vector<float>(64, 0.5f), blocks);
  EXPECT_THAT(blocks, ElementsAre(32));
}

TEST(AttentionSumsTest, OneThatIsNoNumberIsSeen) {
  EXPECT_TRUE(AreFinite({0.0f, 1.0f}));
  EXPECT_FALSE(AreFinite({0.0f, std::numeric_limits<float>::infinity()}));
  EXPECT_FALSE(AreFinite({std::numeric_limits<float>::quiet_NaN(), 1.0f}));
}

TEST(JensenShannonDistanceTest, IsZeroOfEqualDistributionsWhateverTheirSums) {
  EXPECT_NEAR(JensenShannonDistance({1, 2, 5}, {2, 4, 10}), 0, 1e-8);
}

TEST(JensenShannonDistanceTest, IsGreatestOfDistributionsThatShareNothing) {
  EXPECT_DOUBLE_EQ(JensenShannonDistance({1, 0, 3}, {0, 2, 0}),
                   std::sqrt(std::log(2.0)));
}

TEST(JensenShannonDistanceTest, IsTheRootOfTheMeanOfTwoDivergences) {
  // p = 1/2, 1/2 and q = 1/4, 3/4 with the mean 3/8, 5/8.
  const double kl_p = 0.5 * std::log(4.0 / 3) + 0.5 * std::log(4.0 / 5);
  const double kl_q = 0.25 * std::log(2.0 / 3) + 0.75 * std::log(6.0 / 5);
  const double expected = std::sqrt((kl_p + kl_q) / 2);
  EXPECT_NEAR(JensenShannonDistance({1, 1}, {1, 3}), expected, 1e-12);
  EXPECT_NEAR(JensenShannonDistance({1, 3}, {1, 1}), expected, 1e-12);
}

TEST(JensenShannonDistanceTest, IsNoNumberWhereThereIsNoDistribution) {
  EXPECT_TRUE(std::isnan(JensenShannonDistance({0, 0}, {1, 1})));
  EXPECT_TRUE(std::isnan(JensenShannonDistance(
      {1, 1}, {1, std::numeric_limits<float>::quiet_NaN()})));
}

}  // namespace
}  // namespace sparseserve
