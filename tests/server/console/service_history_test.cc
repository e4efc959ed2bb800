#include "server/console/service_history.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

absl::Time At(double seconds) {
  return absl::UnixEpoch() + absl::Seconds(seconds);
}

// Of a server that does the same each second.
ServiceTotals After(int seconds) {
  ServiceTotals totals;
  totals.generation_tokens = 10 * seconds;
  totals.prompt_tokens = {{"computed", 100 * seconds},
                          {"prefix_cache", 50 * seconds}};
  totals.time_to_first_token = {
      {.1, .2}, {1.0 * seconds, 1.0 * seconds, 0}, .3 * seconds};
  const double steps = 2 * seconds;
  totals.phases[0].step_seconds = {{1}, {steps, 0}, 0};
  totals.phases[1].step_seconds = {{1}, {steps, 0}, 0};
  totals.phases[0].batch_tokens = {{8}, {0, steps}, 50 * steps};
  totals.phases[1].batch_tokens = {{8}, {2 * steps, 0}, 6 * steps};
  return totals;
}

TEST(ServiceHistoryTest, NothingBeforeTheFirstMoment) {
  const ServiceHistory::Period period =
      ServiceHistory().LastMinute(At(5), After(5));
  EXPECT_EQ(period.length, absl::ZeroDuration());
  EXPECT_EQ(period.added.generation_tokens, 0);
}

TEST(ServiceHistoryTest, CountsFromTheStartUntilAMinuteHasPassed) {
  ServiceHistory history;
  for (int s = 10; s <= 40; ++s) history.Add(At(s), {}, After(s));
  const auto period = history.LastMinute(At(40.5), After(50));
  EXPECT_EQ(period.length, absl::Seconds(30.5));
  EXPECT_EQ(period.added.generation_tokens, 400);
}

TEST(ServiceHistoryTest, CountsFromAMinuteAgo) {
  ServiceHistory history;
  for (int s = 0; s <= 200; ++s) history.Add(At(s), {}, After(s));
  const auto period = history.LastMinute(At(200), After(200));
  EXPECT_EQ(period.length, absl::Minutes(1));
  EXPECT_EQ(period.added.generation_tokens, 600);
  EXPECT_EQ(period.added.time_to_first_token.Count(), 120);
}

TEST(ServiceHistoryTest, PointsAreRatesOfFiveSeconds) {
  ServiceHistory history;
  ServiceState state;
  state.running = 3;
  state.waiting = 4;
  for (int s = 0; s <= 30; ++s) history.Add(At(s), state, After(s));
  const ServiceHistory::Point& point = history.points().back();
  EXPECT_EQ(point.running, 3);
  EXPECT_EQ(point.waiting, 4);
  EXPECT_DOUBLE_EQ(point.output_tokens_per_second, 10);
  EXPECT_DOUBLE_EQ(point.prompt_tokens_per_second, 150);
  // Over steps of both phases.
  EXPECT_DOUBLE_EQ(point.output_tokens_per_step, 3);
  EXPECT_DOUBLE_EQ(point.prompt_tokens_per_step, 25);
  EXPECT_DOUBLE_EQ(point.first_token_p50, .1);
  EXPECT_DOUBLE_EQ(point.first_token_p95, .19);
}

TEST(ServiceHistoryTest, AStopShowsAfterFiveSeconds) {
  ServiceHistory history;
  for (int s = 0; s <= 30; ++s) history.Add(At(s), {}, After(s));
  for (int s = 31; s <= 33; ++s) history.Add(At(s), {}, After(30));
  EXPECT_DOUBLE_EQ(history.points().back().output_tokens_per_second, 4);
  for (int s = 34; s <= 35; ++s) history.Add(At(s), {}, After(30));
  EXPECT_DOUBLE_EQ(history.points().back().output_tokens_per_second, 0);
  EXPECT_TRUE(std::isnan(history.points().back().output_tokens_per_step));
  // First tokens of the last minute are still there.
  EXPECT_DOUBLE_EQ(history.points().back().first_token_p50, .1);
  for (int s = 36; s <= 91; ++s) history.Add(At(s), {}, After(30));
  EXPECT_TRUE(std::isnan(history.points().back().first_token_p50));
}

TEST(ServiceHistoryTest, KeepsFiveMinutes) {
  ServiceHistory history;
  for (int s = 0; s < 1000; ++s) {
    ServiceState state;
    state.running = s;
    history.Add(At(s), state, After(s));
  }
  EXPECT_EQ(history.points().size(), 301u);
  EXPECT_EQ(history.points().front().running, 699);
  EXPECT_EQ(history.points().back().running, 999);
}

TEST(ServiceHistoryTest, KeepsTheLatestFallbacks) {
  ServiceHistory history;
  ServiceTotals totals;
  // Whatever fell back before anybody looked has no known time.
  totals.phases[1].fallbacks["policy"] = 5;
  history.Add(At(0), {}, totals);
  EXPECT_TRUE(history.fallbacks().empty());
  for (int s = 1; s <= 30; ++s) {
    totals.phases[1].fallbacks["policy"] += s;
    history.Add(At(s), {}, totals);
  }
  history.Add(At(31), {}, totals);
  totals.phases[0].fallbacks["low_recall"] += 1;
  history.Add(At(32), {}, totals);
  ASSERT_EQ(history.fallbacks().size(), 20u);
  EXPECT_EQ(history.fallbacks()[0].reason, "low_recall");
  EXPECT_EQ(history.fallbacks()[0].phase, "prefill");
  EXPECT_EQ(history.fallbacks()[0].time, At(32));
  EXPECT_EQ(history.fallbacks()[1].reason, "policy");
  EXPECT_EQ(history.fallbacks()[1].phase, "decode");
  EXPECT_EQ(history.fallbacks()[1].requests, 30);
  EXPECT_EQ(history.fallbacks()[19].time, At(12));
}

}  // namespace
}  // namespace sparseserve
