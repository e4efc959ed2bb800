#include "server/scheduling/drain_rate.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

absl::Time At(double seconds) {
  return absl::FromUnixSeconds(1000) + absl::Seconds(seconds);
}

TEST(DrainRateTest, IsNoneBeforeAnythingWentAway) {
  EXPECT_EQ(DrainRate().PerSecond(At(0)), 0);
}

TEST(DrainRateTest, IsTheSteadyRateSoonAndLate) {
  DrainRate rate;
  for (int i = 0; i < 4000; ++i) {
    rate.Count(1, At(i * 0.1));
    if (i > 30) {
      ASSERT_NEAR(rate.PerSecond(At(i * 0.1)), 10, 1) << i;
    }
  }
}

TEST(DrainRateTest, FollowsAChange) {
  DrainRate rate;
  for (int i = 0; i < 1000; ++i) rate.Count(1, At(i * 0.1));
  for (int i = 0; i < 100; ++i) rate.Count(1, At(100 + i));
  EXPECT_NEAR(rate.PerSecond(At(200)), 1, 0.5);
}

TEST(DrainRateTest, FallsWhileNothingGoesAway) {
  DrainRate rate;
  for (int i = 0; i < 1000; ++i) rate.Count(1, At(i * 0.1));
  EXPECT_LT(rate.PerSecond(At(400)), 0.01);
}

}  // namespace
}  // namespace sparseserve
