#include "server/load_stopwatch.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(LoadStopwatchTest, StagesEndWhereTheNextOnesBegin) {
  double now = 100;
  LoadStopwatch stopwatch([&now] { return now; });
  now = 101;
  stopwatch.Progress("weights", 0);
  now = 103;
  stopwatch.Progress("weights", 0.5);
  now = 105;
  stopwatch.Progress("weights", 1);
  now = 108;
  stopwatch.Progress("products", 0.5);
  now = 109;
  const LoadTimes times = stopwatch.Stop();
  EXPECT_EQ(times.read, absl::Seconds(1));
  EXPECT_EQ(times.convert, absl::Seconds(4));
  EXPECT_EQ(times.warmup, absl::Seconds(4));
}

TEST(LoadStopwatchTest, WithoutReportsAllOfItIsWarmup) {
  double now = 100;
  LoadStopwatch stopwatch([&now] { return now; });
  now = 102;
  const LoadTimes times = stopwatch.Stop();
  EXPECT_EQ(times.read, absl::ZeroDuration());
  EXPECT_EQ(times.convert, absl::ZeroDuration());
  EXPECT_EQ(times.warmup, absl::Seconds(2));
}

}  // namespace
}  // namespace sparseserve
