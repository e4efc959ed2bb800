#include "server/simulation/simulation.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

constexpr StepCosts kCosts = {.constant = 4e-3,
                              .decode_row = 1e-3,
                              .prompt_row = 5e-4,
                              .decode_block = 5e-5,
                              .prompt_block = 4e-4};

SimulationOptions Options() {
  SimulationOptions options;
  options.costs = kCosts;
  options.scheduler.context_tokens = 8192;
  options.scheduler.kv_pages = 728;
  return options;
}

SimulationReport ReportOf(const SimulationOptions& options) {
  auto report = Simulate(options, nullptr);
  EXPECT_TRUE(report.ok()) << report.status();
  return *std::move(report);
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

int64_t Count(const ClassOutcome& outcome, const std::string& reason) {
  const auto found = outcome.reasons.find(reason);
  return found == outcome.reasons.end() ? 0 : found->second;
}

double Uniform(std::mt19937_64& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

// Random arrivals; outputs are short but for a few that are very long.
std::vector<TracedRequest> HeavyTailed(int requests, double per_second) {
  std::mt19937_64 random(11);
  std::vector<TracedRequest> trace;
  absl::Duration arrival;
  for (int i = 0; i < requests; ++i) {
    arrival += absl::Seconds(-std::log1p(-Uniform(random)) / per_second);
    const double pareto = std::pow(1 - Uniform(random), -1 / 1.1);
    trace.push_back({arrival, 64 + static_cast<int>(Uniform(random) * 200),
                     static_cast<int>(std::min(10 * pareto, 4000.0))});
  }
  return trace;
}

TEST(SimulationTest, LightLoadTakesWhatTheCostsSay) {
  SimulationOptions options = Options();
  // Alone each: the first is done when the second comes.
  options.requests = {{absl::Seconds(0), 256, 3}, {absl::Seconds(100), 640, 1}};
  const SimulationReport report = ReportOf(options);
  const ClassOutcome all = report.All();
  ASSERT_EQ(all.finished, 2);
  // 256 rows in a step; 128 / 64 + 1 = 3 blocks each in the mean, 4 times 64.
  const double first = 4e-3 + 256 * 5e-4 + 4 * 3 * 4e-4;
  // 512 rows that see 5 blocks, then 128: (512 + 64) / 64 + 1 = 10.
  const double second =
      (4e-3 + 512 * 5e-4 + 8 * 5 * 4e-4) + (4e-3 + 128 * 5e-4 + 2 * 10 * 4e-4);
  ASSERT_EQ(all.first_token_s.size(), 2);
  EXPECT_NEAR(all.first_token_s[0], first, 1e-9);
  EXPECT_NEAR(all.first_token_s[1], second, 1e-9);
  // Tokens at 256 and 257.
  const double tokens =
      2 * (4e-3 + 1e-3 + 5e-5) + 5e-5 * (256.5 / 64 + 257.5 / 64);
  ASSERT_EQ(all.per_token_s.size(), 1);
  EXPECT_NEAR(all.per_token_s[0], tokens / 2, 1e-9);
  EXPECT_NEAR(absl::ToDoubleSeconds(report.elapsed), 100 + second, 1e-6);
  EXPECT_EQ(report.AllWork().rows, 256 + 2 + 640);
  EXPECT_EQ(report.Waste(), 0);
}

TEST(SimulationTest, TwoReplicasHalveTheQueue) {
  SimulationOptions options = Options();
  options.scheduler.max_running_sequences = 1;
  // One at a time, each as long: number i waits for i others.
  for (int i = 0; i < 20; ++i) {
    options.requests.push_back({absl::ZeroDuration(), 128, 1});
  }
  const double alone = 4e-3 + 128 * 5e-4 + 2 * 2 * 4e-4;
  EXPECT_NEAR(Mean(ReportOf(options).All().first_token_s), alone * 10.5, 1e-6);
  options.replicas = 2;
  EXPECT_NEAR(Mean(ReportOf(options).All().first_token_s), alone * 5.5, 1e-6);
}

TEST(SimulationTest, TheSameSeedGivesTheSameReport) {
  SimulationOptions options = Options();
  options.requests = HeavyTailed(400, 3);
  options.classes = *ParseClasses("a:share=0.5,ttft=1s;b:share=0.5");
  options.replicas = 3;
  options.picker = "orca";
  options.step_noise = 0.1;
  const std::string report = ReportJson(ReportOf(options));
  EXPECT_EQ(ReportJson(ReportOf(options)), report);
  options.seed = 2;
  EXPECT_NE(ReportJson(ReportOf(options)), report);
}

TEST(SimulationTest, EachRequestEndsOnce) {
  SimulationOptions options = Options();
  options.requests = HeavyTailed(1500, 20);
  options.requests[7].prompt_tokens = 9000;
  options.classes = *ParseClasses(
      "strict:ttft=300ms,on_miss=reject;brief:deadline=2s;"
      "rest:priority=-1,share=2");
  options.scheduler.kv_pages = 70;
  options.queue.max_requests = 12;
  options.replicas = 2;
  for (const char* const picker : {"round_robin", "least_loaded", "orca"}) {
    options.picker = picker;
    const SimulationReport report = ReportOf(options);
    const ClassOutcome all = report.All();
    EXPECT_EQ(all.requests(), 1500);
    EXPECT_EQ(report.AllWork().requests, report.AllWork().ended);
    int64_t reasons = 0;
    for (const auto& [reason, count] : all.reasons) reasons += count;
    EXPECT_EQ(reasons, all.refused + all.failed);
    EXPECT_EQ(Count(all, "too_long"), 1);
    // All ways to end have been tried, else this says little.
    EXPECT_GT(all.finished, 100);
    EXPECT_GT(Count(all, "queue_full"), 10);
    // Nearly all that would be too late are refused.
    EXPECT_GT(Count(all, "deadline"), 0);
    EXPECT_GT(Count(all, "deadline_unmeetable"), 10);
    EXPECT_GT(report.AllWork().preemptions, 0);
  }
}

TEST(SimulationTest, LeastLoadedBeatsRoundRobinWhereOutputsDiffer) {
  SimulationOptions options = Options();
  options.requests = HeavyTailed(3000, 10);
  options.scheduler.max_running_sequences = 4;
  options.queue.max_requests = 3000;
  options.replicas = 4;
  options.picker = "round_robin";
  const ClassOutcome in_turn = ReportOf(options).All();
  options.picker = "least_loaded";
  const ClassOutcome least = ReportOf(options).All();
  ASSERT_EQ(in_turn.finished, 3000);
  ASSERT_EQ(least.finished, 3000);
  EXPECT_LT(Mean(least.first_token_s), 0.7 * Mean(in_turn.first_token_s));
}

TEST(SimulationTest, WorkForWhatDidNotFinishIsWaste) {
  SimulationOptions options = Options();
  options.classes = *ParseClasses("brief:deadline=1s");
  // Its prompt takes about 0.3 s, its output far longer than is left.
  options.requests = {{absl::ZeroDuration(), 512, 4000}};
  const SimulationReport report = ReportOf(options);
  EXPECT_EQ(report.All().failed, 1);
  EXPECT_EQ(report.All().unfinished_tokens, report.AllWork().rows);
  EXPECT_EQ(report.Waste(), 1);
  EXPECT_EQ(report.All().attainment(), 0);
}

TEST(SimulationTest, TargetsCountAsTheyAreKept) {
  SimulationOptions options = Options();
  // 0.1368 s to the first token, 5.25 ms for each other, as above.
  options.requests = {{absl::Seconds(0), 256, 3}, {absl::Seconds(100), 256, 3}};
  options.classes = *ParseClasses("a:ttft=137ms");
  EXPECT_EQ(ReportOf(options).All().attainment(), 1);
  options.classes = *ParseClasses("a:ttft=136ms");
  EXPECT_EQ(ReportOf(options).All().attainment(), 0);
  options.classes = *ParseClasses("a:tpot=5.4ms");
  EXPECT_EQ(ReportOf(options).All().attainment(), 1);
  options.classes = *ParseClasses("a:tpot=5.2ms");
  EXPECT_EQ(ReportOf(options).All().attainment(), 0);
}

TEST(SimulationTest, SharesOfClassesAreDrawn) {
  SimulationOptions options = Options();
  for (int i = 0; i < 2000; ++i) {
    options.requests.push_back({absl::Seconds(i), 64, 1});
  }
  options.classes = *ParseClasses("a:share=3;b:share=1");
  const SimulationReport report = ReportOf(options);
  // Five standard deviations.
  EXPECT_NEAR(report.classes[0].requests(), 1500, 100);
  EXPECT_EQ(report.classes[0].requests() + report.classes[1].requests(), 2000);
}

TEST(SimulationTest, NamesTheOptionThatIsOutOfRange) {
  SimulationOptions options = Options();
  options.requests = {{absl::ZeroDuration(), 1, 1}};
  const auto error = [](const SimulationOptions& options) {
    return std::string(Simulate(options, nullptr).status().message());
  };
  options.replicas = 65;
  EXPECT_THAT(error(options), HasSubstr("replicas is 65"));
  options.replicas = 1;
  options.step_noise = 2;
  EXPECT_THAT(error(options), HasSubstr("step noise is 2"));
  options.step_noise = 0;
  options.scheduler.kv_pages = 0;
  EXPECT_THAT(error(options), HasSubstr("kv_pages is 0"));
}

TEST(PercentileTest, IsTheNearestRank) {
  EXPECT_FALSE(Percentile({}, 0.5).has_value());
  EXPECT_EQ(*Percentile({3}, 0.99), 3);
  EXPECT_EQ(*Percentile({4, 1, 3, 2}, 0.5), 2);
  EXPECT_EQ(*Percentile({4, 1, 3, 2}, 0.51), 3);
  EXPECT_EQ(*Percentile({4, 1, 3, 2}, 1), 4);
}

}  // namespace
}  // namespace sparseserve
