// The load generator against the real server: what it reports is what the
// server counted.

#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/load/load_report.pb.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/json_util.h"
#include "gtest/gtest.h"
#include "tests/integration/server_process.h"
#include "tests/testing/scrape.h"

namespace sparseserve {
namespace {

using testing::ChildProcess;
using ::testing::HasSubstr;
using testing::Scrape;
using testing::ServerProcess;
using testing::SumOfSeries;

struct ToolRun {
  int status = 0;
  std::string output;
  client_load::LoadReport report;
};

class LoadTest : public ::testing::Test {
 protected:
  // The same server for all: a test looks at what it adds.
  static void SetUpTestSuite() { server_ = new ServerProcess({}); }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }
  ~LoadTest() override { server_->ExpectIdle(); }

  ToolRun Load(const std::vector<std::string>& flags) {
    const std::string json = ::testing::TempDir() + "load_test.json";
    std::vector<std::string> arguments = {
        SPARSESERVE_TOOL, "load",
        absl::StrCat("--server=127.0.0.1:", server_->port()),
        absl::StrCat("--metrics=127.0.0.1:", server_->metrics_port()),
        "--json=" + json};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    ChildProcess tool(arguments);
    ToolRun run;
    run.status = tool.Wait();
    tool.WaitForLine("no such line: waits for the end of the output");
    run.output = tool.Output();
    std::ostringstream text;
    text << std::ifstream(json).rdbuf();
    EXPECT_TRUE(
        google::protobuf::util::JsonStringToMessage(text.str(), &run.report)
            .ok())
        << run.output;
    return run;
  }

  double Count(const std::string& name,
               std::initializer_list<std::string> labels = {}) {
    return server_->Series(name, labels);
  }
  void WaitForCount(const std::string& name,
                    std::initializer_list<std::string> labels, double value) {
    server_->WaitForSeries(name, labels, value);
  }
  std::string Metrics() { return Scrape(server_->metrics_port()); }

 private:
  static ServerProcess* server_;
};

ServerProcess* LoadTest::server_ = nullptr;

// How many observations of a histogram were at most `bound` seconds.
double AtMost(const std::string& scrape, const std::string& metric,
              double bound) {
  const std::string le =
      std::isfinite(bound) ? absl::StrCat("le=\"", bound, "\"") : "le=\"+Inf\"";
  std::initializer_list<std::string> labels = {le};
  if (metric == "sparseserve_request_duration_seconds") {
    return SumOfSeries(scrape, metric + "_bucket",
                       {le, "operation=\"stream_generate\""})
        .value_or(-1);
  }
  return SumOfSeries(scrape, metric + "_bucket", labels).value_or(-1);
}

TEST_F(LoadTest, AnOpenLoopReportsWhatTheServerCounted) {
  const std::string before = Metrics();
  const double prompt_tokens = Count("sparseserve_request_prompt_tokens_sum");
  const double tokens = Count("sparseserve_generation_tokens_total");
  const double finished = Count("sparseserve_requests_finished_total",
                                {"finish_reason=\"length\""});
  const double met = Count("sparseserve_latency_targets_total",
                           {"target=\"time_to_first_token\""});
  const ToolRun run = Load({"--rate=5", "--requests=10",
                            "--prompt_tokens=20..90", "--output_tokens=6",
                            "--class=chat:ttft=1h,tpot=50s", "--class=batch"});
  const auto& all = run.report.all();
  EXPECT_EQ(all.requests(), 10) << run.output;
  EXPECT_EQ(all.finished(), 10);
  EXPECT_EQ(all.attainment(), 1);
  EXPECT_EQ(all.output_tokens(), 60);
  EXPECT_GE(all.prompt_tokens(), 200);
  EXPECT_EQ(all.time_to_first_token().count(), 10);
  EXPECT_EQ(all.inter_token().count(), 50);
  EXPECT_EQ(run.report.generator_lag().count(), 10);
  ASSERT_EQ(run.report.classes_size(), 2);
  EXPECT_EQ(run.report.classes(0).requests() + run.report.classes(1).requests(),
            10);

  EXPECT_EQ(Count("sparseserve_request_prompt_tokens_sum") - prompt_tokens,
            static_cast<double>(all.prompt_tokens()));
  EXPECT_EQ(Count("sparseserve_generation_tokens_total") - tokens, 60);
  EXPECT_EQ(Count("sparseserve_requests_finished_total",
                  {"finish_reason=\"length\""}) -
                finished,
            10);
  EXPECT_EQ(Count("sparseserve_latency_targets_total",
                  {"target=\"time_to_first_token\""}) -
                met,
            static_cast<double>(run.report.classes(0).requests()));

  // Whether they agree depends on how busy this machine is; that the buckets
  // are the server's, and that the verdict follows from them, does not.
  const std::string after = Metrics();
  const auto& comparison = run.report.server_comparison();
  EXPECT_EQ(comparison.error(), "");
  ASSERT_EQ(comparison.quantiles_size(), 9);
  for (const auto& quantile : comparison.quantiles()) {
    const auto counted = [&](double bound) {
      return AtMost(after, quantile.metric(), bound) -
             AtMost(before, quantile.metric(), bound);
    };
    const double at_most = quantile.has_server_at_most_s()
                               ? quantile.server_at_most_s()
                               : HUGE_VAL;
    EXPECT_EQ(quantile.server_count(), counted(HUGE_VAL)) << quantile.metric();
    EXPECT_EQ(quantile.client_count(), quantile.server_count());
    const double rank = std::ceil(quantile.share() * quantile.server_count());
    EXPECT_GE(counted(at_most), rank) << quantile.metric();
    if (quantile.server_above_s() > 0) {
      EXPECT_LT(counted(quantile.server_above_s()), rank) << quantile.metric();
    }
  }
  EXPECT_EQ(run.status, comparison.agrees() ? 0 : 1) << run.output;
}

TEST_F(LoadTest, CancelledRequestsAreCancelledOnTheServer) {
  const double cancelled =
      Count("sparseserve_requests_cancelled_total", {"cause=\"client\""});
  const ToolRun run =
      Load({"--concurrency=2", "--requests=2", "--output_tokens=4000",
            "--prompt_tokens=30", "--cancel_share=1", "--cancel_after=300ms"});
  EXPECT_EQ(run.report.all().cancelled(), 2) << run.output;
  EXPECT_FALSE(run.report.all().has_attainment());
  // The server hears of it after the tool has ended.
  WaitForCount("sparseserve_requests_cancelled_total", {"cause=\"client\""},
               cancelled + 2);
}

TEST_F(LoadTest, RefusalsAreReportedWithTheServersReason) {
  const ToolRun run = Load({"--concurrency=1", "--requests=2",
                            "--prompt_tokens=9000", "--output_tokens=1"});
  EXPECT_EQ(run.status, 1);
  EXPECT_EQ(run.report.all().refused(), 2) << run.output;
  ASSERT_EQ(run.report.all().reasons_size(), 1);
  EXPECT_EQ(run.report.all().reasons(0).outcome(), "refused");
  EXPECT_EQ(run.report.all().attainment(), 0);
  EXPECT_THAT(run.output, HasSubstr(run.report.all().reasons(0).reason()));
}

}  // namespace
}  // namespace sparseserve
