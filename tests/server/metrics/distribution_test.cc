#include "server/metrics/distribution.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

TEST(DistributionTest, QuantilesLieEvenlyWithinABucket) {
  const Distribution distribution = {{1, 2, 4}, {2, 4, 4, 0}, 20};
  EXPECT_DOUBLE_EQ(distribution.Quantile(.1), .5);
  EXPECT_DOUBLE_EQ(distribution.Quantile(.2), 1);
  EXPECT_DOUBLE_EQ(distribution.Quantile(.5), 1.75);
  EXPECT_DOUBLE_EQ(distribution.Quantile(.95), 3.75);
  EXPECT_DOUBLE_EQ(distribution.Quantile(1), 4);
  EXPECT_DOUBLE_EQ(distribution.Mean(), 2);
  EXPECT_DOUBLE_EQ(distribution.Count(), 10);
}

TEST(DistributionTest, QuantilesSkipEmptyBuckets) {
  const Distribution distribution = {{1, 2, 4, 8}, {0, 3, 0, 1, 0}, 10};
  EXPECT_DOUBLE_EQ(distribution.Quantile(0), 1);
  EXPECT_DOUBLE_EQ(distribution.Quantile(.75), 2);
  EXPECT_DOUBLE_EQ(distribution.Quantile(.875), 6);
}

TEST(DistributionTest, BeyondTheLastBoundItIsTheAnswer) {
  const Distribution distribution = {{1, 2}, {1, 0, 9}, 500};
  EXPECT_DOUBLE_EQ(distribution.Quantile(.5), 2);
  EXPECT_DOUBLE_EQ(distribution.Quantile(.99), 2);
}

TEST(DistributionTest, NothingHasNoQuantile) {
  EXPECT_TRUE(std::isnan(Distribution().Quantile(.5)));
  EXPECT_TRUE(std::isnan(Distribution().Mean()));
  const Distribution empty = {{1, 2}, {0, 0, 0}, 0};
  EXPECT_TRUE(std::isnan(empty.Quantile(.5)));
}

TEST(DistributionTest, SumsAndDifferencesAreByBucket) {
  Distribution sum;
  sum += {{1, 2}, {1, 2, 3}, 10};
  sum += {{1, 2}, {10, 0, 0}, 5};
  sum += Distribution();
  EXPECT_THAT(sum.counts, ElementsAre(11, 2, 3));
  EXPECT_DOUBLE_EQ(sum.sum, 15);
  const Distribution added = sum.Since({{1, 2}, {11, 1, 0}, 4});
  EXPECT_THAT(added.counts, ElementsAre(0, 1, 3));
  EXPECT_DOUBLE_EQ(added.sum, 11);
  EXPECT_THAT(sum.Since({}).counts, ElementsAre(11, 2, 3));
}

}  // namespace
}  // namespace sparseserve
