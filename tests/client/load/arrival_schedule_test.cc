#include "client/load/arrival_schedule.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::Optional;

constexpr absl::Duration kNow = absl::ZeroDuration();

// All times of an open loop; its server answers nothing.
std::vector<absl::Duration> TimesOf(ArrivalSchedule schedule) {
  std::vector<absl::Duration> times;
  while (const auto next = schedule.Next(kNow)) {
    times.push_back(*next);
    schedule.Take();
  }
  return times;
}

TEST(ArrivalScheduleTest, PoissonGapsAreExponentialAtTheRate) {
  const auto times = TimesOf(
      ArrivalSchedule::Poisson(Ramp(5), {.requests = 20'000}, /*seed=*/7));
  ASSERT_EQ(times.size(), 20'000u);
  double sum = 0;
  double squares = 0;
  int above_mean = 0;
  absl::Duration previous;
  for (const absl::Duration time : times) {
    const double gap = absl::ToDoubleSeconds(time - previous);
    sum += gap;
    squares += gap * gap;
    above_mean += gap > 0.2 ? 1 : 0;
    previous = time;
  }
  // Four standard errors of 20,000 draws.
  const double mean = sum / 20'000;
  EXPECT_NEAR(mean, 0.2, 0.2 * 4 / std::sqrt(20'000));
  EXPECT_NEAR(std::sqrt(squares / 20'000 - mean * mean) / mean, 1, 0.04);
  EXPECT_NEAR(above_mean / 20'000.0, std::exp(-1), 0.014);
}

TEST(ArrivalScheduleTest, PoissonFollowsItsSeedAlone) {
  const auto times = [](uint64_t seed) {
    return TimesOf(ArrivalSchedule::Poisson(Ramp(5), {.requests = 50}, seed));
  };
  EXPECT_EQ(times(3), times(3));
  EXPECT_NE(times(3), times(4));
}

TEST(ArrivalScheduleTest, PoissonFollowsARamp) {
  auto ramp = Ramp::Parse("0@0s,100@100s");
  ASSERT_TRUE(ramp.ok());
  const auto times = TimesOf(ArrivalSchedule::Poisson(
      *ramp, {.duration = absl::Seconds(100)}, /*seed=*/5));
  // 5,000 expected, a quarter of them in the first half of the time.
  EXPECT_NEAR(static_cast<double>(times.size()), 5'000, 4 * std::sqrt(5'000));
  const auto early = std::count_if(
      times.begin(), times.end(),
      [](absl::Duration time) { return time < absl::Seconds(50); });
  EXPECT_NEAR(static_cast<double>(early), 1'250, 4 * std::sqrt(1'250));
}

TEST(ArrivalScheduleTest, OpenLoopsDoNotWaitForAnswers) {
  const auto at = [](int seconds) { return absl::Seconds(seconds); };
  EXPECT_THAT(TimesOf(ArrivalSchedule::AtTimes({at(0), at(0), at(3), at(9)},
                                               {.duration = at(9)})),
              ElementsAre(at(0), at(0), at(3)));
}

TEST(ArrivalScheduleTest, WhatWasMeantBeforeTheEndIsSentAfterIt) {
  auto schedule = ArrivalSchedule::AtTimes({absl::Seconds(1)},
                                           {.duration = absl::Seconds(2)});
  EXPECT_THAT(schedule.Next(absl::Seconds(50)), Optional(absl::Seconds(1)));
}

TEST(ArrivalScheduleTest, ARateOfZeroEnds) {
  EXPECT_THAT(TimesOf(ArrivalSchedule::Poisson(Ramp(0), {}, 1)), ElementsAre());
}

TEST(ArrivalScheduleTest, AClosedLoopSendsWhenAPlaceIsFree) {
  auto schedule = ArrivalSchedule::Closed(Ramp(2), {.requests = 4});
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(schedule.Next(kNow), Optional(absl::ZeroDuration()));
    schedule.Take();
  }
  EXPECT_THAT(schedule.Next(absl::Seconds(1)),
              Optional(absl::InfiniteDuration()));
  schedule.Ended(absl::Seconds(4));
  schedule.Ended(absl::Seconds(3));
  // Meant to be sent when the place was free, not when that was noticed.
  EXPECT_THAT(schedule.Next(absl::Seconds(5)), Optional(absl::Seconds(3)));
  schedule.Take();
  EXPECT_THAT(schedule.Next(absl::Seconds(5)), Optional(absl::Seconds(4)));
  schedule.Take();
  schedule.Ended(absl::Seconds(6));
  EXPECT_THAT(schedule.Next(absl::Seconds(7)), Eq(std::nullopt));
}

TEST(ArrivalScheduleTest, AClosedLoopSendsNothingAfterItsTime) {
  auto schedule =
      ArrivalSchedule::Closed(Ramp(1), {.duration = absl::Seconds(5)});
  schedule.Next(kNow);
  schedule.Take();
  schedule.Ended(absl::Seconds(5));
  EXPECT_THAT(schedule.Next(absl::Seconds(5)), Eq(std::nullopt));
}

TEST(ArrivalScheduleTest, AClosedLoopFollowsARampUpAndDown) {
  auto ramp = Ramp::Parse("1@0s,3@20s,1@40s");
  ASSERT_TRUE(ramp.ok());
  auto schedule = ArrivalSchedule::Closed(*ramp, {});
  EXPECT_THAT(schedule.Next(kNow), Optional(absl::ZeroDuration()));
  schedule.Take();
  EXPECT_THAT(schedule.Next(absl::Seconds(1)), Optional(absl::Seconds(10)));
  EXPECT_THAT(schedule.Next(absl::Seconds(21)), Optional(absl::Seconds(10)));
  schedule.Take();
  EXPECT_THAT(schedule.Next(absl::Seconds(21)), Optional(absl::Seconds(20)));
  schedule.Take();
  // Two are too many at 40 s: their ends free nothing.
  schedule.Ended(absl::Seconds(40));
  schedule.Ended(absl::Seconds(41));
  EXPECT_THAT(schedule.Next(absl::Seconds(42)),
              Optional(absl::InfiniteDuration()));
  schedule.Ended(absl::Seconds(43));
  EXPECT_THAT(schedule.Next(absl::Seconds(44)), Optional(absl::Seconds(43)));
}

TEST(ArrivalScheduleTest, AClosedLoopWithoutAPlaceEnds) {
  auto schedule = ArrivalSchedule::Closed(Ramp(0.5), {});
  EXPECT_THAT(schedule.Next(kNow), Eq(std::nullopt));
}

}  // namespace
}  // namespace sparseserve
