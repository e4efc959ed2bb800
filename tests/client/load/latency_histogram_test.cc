#include "client/load/latency_histogram.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/load/seeded_draw.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(LatencyHistogramTest, QuantilesAreThoseOfTheSortedTimes) {
  LatencyHistogram histogram;
  std::vector<double> seconds;
  for (int i = 0; i < 5'000; ++i) {
    // From 30 ns to half an hour.
    seconds.push_back(
        std::exp(-17 + 24.5 * SeededDraw(1, DrawOf::kArrival, i)));
    histogram.Add(absl::Seconds(seconds.back()));
  }
  std::sort(seconds.begin(), seconds.end());
  for (const double share : {0.0001, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0}) {
    const double exact =
        seconds[static_cast<size_t>(std::ceil(share * 5'000)) - 1];
    const double found = absl::ToDoubleSeconds(histogram.Quantile(share));
    EXPECT_GE(found, exact - 1e-9) << share;
    EXPECT_LE(found, exact * (1 + 1.0 / 128) + 1e-9) << share;
  }
  EXPECT_EQ(histogram.count(), 5'000);
  EXPECT_NEAR(absl::ToDoubleSeconds(histogram.Max()), seconds.back(), 1e-6);
}

TEST(LatencyHistogramTest, OneTimeIsEveryQuantile) {
  LatencyHistogram histogram;
  histogram.Add(absl::Milliseconds(12));
  for (const double share : {0.01, 0.5, 1.0}) {
    EXPECT_EQ(histogram.Quantile(share), absl::Milliseconds(12));
  }
  EXPECT_EQ(histogram.Mean(), absl::Milliseconds(12));
}

TEST(LatencyHistogramTest, SmallTimesAreExact) {
  LatencyHistogram histogram;
  for (int i = 0; i < 256; ++i) histogram.Add(absl::Nanoseconds(i));
  EXPECT_EQ(histogram.Quantile(0.5), absl::Nanoseconds(127));
  EXPECT_EQ(histogram.Quantile(1), absl::Nanoseconds(255));
}

TEST(LatencyHistogramTest, TimesMayCountSeveralTimes) {
  LatencyHistogram histogram;
  histogram.Add(absl::Milliseconds(1), 9);
  histogram.Add(absl::Milliseconds(100));
  EXPECT_EQ(histogram.count(), 10);
  EXPECT_NEAR(absl::ToDoubleMilliseconds(histogram.Quantile(0.9)), 1, 0.01);
  EXPECT_EQ(histogram.Quantile(0.91), absl::Milliseconds(100));
  EXPECT_EQ(histogram.Mean(), absl::Microseconds(10'900));
}

TEST(LatencyHistogramTest, NegativeTimesAreZero) {
  LatencyHistogram histogram;
  histogram.Add(absl::Milliseconds(-3));
  EXPECT_EQ(histogram.Quantile(1), absl::ZeroDuration());
  EXPECT_EQ(histogram.Mean(), absl::ZeroDuration());
}

}  // namespace
}  // namespace sparseserve
