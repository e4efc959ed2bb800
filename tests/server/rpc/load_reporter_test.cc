#include "server/rpc/load_reporter.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

class LoadReporterTest : public ::testing::Test {
 protected:
  LoadReporter::Report Ended(bool failed, int prompt = 0, int generated = 0) {
    LoadReporter::Report report;
    EXPECT_TRUE(
        report.ParseFromString(reporter_.Ended(failed, prompt, generated)));
    return report;
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  absl::Duration cpu_ = absl::Seconds(50);
  LoadGauge gauge_;
  LoadReporter reporter_{
      {.running = 4, .waiting = 10, .cores = 2},
      {gauge_, [this] { return now_; }, [this] { return cpu_; }}};
};

TEST_F(LoadReporterTest, UtilizationIsWhatIsScarcest) {
  const struct {
    int running, waiting;
    double kv_usage, utilization;
  } kRows[] = {{0, 0, 0, 0},     {1, 0, 0.125, 0.25}, {1, 0, 0.5, 0.5},
               {1, 8, 0.5, 0.8}, {4, 0, 0.5, 1},      {4, 12, 0.5, 1}};
  for (const auto& row : kRows) {
    gauge_.SetRequests(row.running, row.waiting, row.kv_usage);
    const LoadReporter::Report report = reporter_.Current();
    EXPECT_EQ(report.application_utilization(), row.utilization);
    EXPECT_EQ(report.named_metrics().at("kv_cache_usage"), row.kv_usage);
    EXPECT_EQ(report.named_metrics().at("queue_depth"), row.waiting);
    EXPECT_TRUE(report.request_cost().empty());
  }
}

TEST_F(LoadReporterTest, RatesAreOverAWholeSecondOrMore) {
  EXPECT_EQ(Ended(false).rps_fractional(), 0);
  EXPECT_EQ(Ended(true).rps_fractional(), 0);
  now_ += absl::Milliseconds(2500);
  cpu_ += absl::Seconds(2);
  LoadReporter::Report report = Ended(true);
  EXPECT_DOUBLE_EQ(report.rps_fractional(), 3 / 2.5);
  EXPECT_DOUBLE_EQ(report.eps(), 2 / 2.5);
  EXPECT_DOUBLE_EQ(report.cpu_utilization(), 2 / (2.5 * 2));
  // They stand until the next second is over.
  now_ += absl::Milliseconds(999);
  EXPECT_DOUBLE_EQ(Ended(false).rps_fractional(), 3 / 2.5);
  now_ += absl::Milliseconds(1);
  report = reporter_.Current();
  EXPECT_DOUBLE_EQ(report.rps_fractional(), 1);
  EXPECT_EQ(report.eps(), 0);
  EXPECT_EQ(report.cpu_utilization(), 0);
}

TEST_F(LoadReporterTest, DensityIsOfTheLatestAttention) {
  EXPECT_FALSE(reporter_.Current().named_metrics().contains("density"));
  gauge_.AddBlocks({.computed = 30, .allowed = 40});
  now_ += absl::Seconds(1);
  EXPECT_EQ(reporter_.Current().named_metrics().at("density"), 0.75);
  gauge_.AddBlocks({.computed = 10, .allowed = 40});
  now_ += absl::Seconds(1);
  EXPECT_EQ(reporter_.Current().named_metrics().at("density"), 0.25);
  now_ += absl::Seconds(1);
  EXPECT_EQ(reporter_.Current().named_metrics().at("density"), 0.25);
}

TEST_F(LoadReporterTest, TrailersSayWhatTheRequestCost) {
  const LoadReporter::Report report = Ended(false, 12, 34);
  EXPECT_EQ(report.request_cost().at("prompt_tokens"), 12);
  EXPECT_EQ(report.request_cost().at("generated_tokens"), 34);
}

TEST(ProcessCpuTimeTest, Grows) {
  const absl::Duration begin = ProcessCpuTime();
  volatile double sum = 0;
  while (ProcessCpuTime() == begin) sum = sum + 1;
  EXPECT_GT(ProcessCpuTime(), begin);
}

}  // namespace
}  // namespace sparseserve
