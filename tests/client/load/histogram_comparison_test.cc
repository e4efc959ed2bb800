#include "client/load/histogram_comparison.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/load/load_report_builder.h"
#include "client/load/load_report_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kScrape[] =
    "# HELP x_seconds something\n"
    "# TYPE x_seconds histogram\n"
    "x_seconds_count{model=\"a\",op=\"g\"} 4\n"
    "x_seconds_sum{model=\"a\",op=\"g\"} 0.5\n"
    "x_seconds_bucket{model=\"a\",op=\"g\",le=\"0.1\"} 1\n"
    "x_seconds_bucket{model=\"a\",op=\"g\",le=\"0.2\"} 3\n"
    "x_seconds_bucket{model=\"a\",op=\"g\",le=\"+Inf\"} 4\n"
    "x_seconds_bucket{model=\"a\",op=\"s\",le=\"0.1\"} 10\n"
    "x_seconds_bucket{model=\"a\",op=\"s\",le=\"0.2\"} 10\n"
    "x_seconds_bucket{model=\"a\",op=\"s\",le=\"+Inf\"} 10\n"
    "xx_seconds_bucket{le=\"+Inf\"} 7\n";

MetricHistogram Histogram(std::vector<double> counts) {
  return {.bounds = {0.1, 0.2, 0.4, 0.8, HUGE_VAL},
          .counts = std::move(counts)};
}

TEST(MetricHistogramTest, SumsTheSeriesThatHaveTheLabels) {
  const auto all = ParseMetricHistogram(kScrape, "x_seconds", {});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(all->bounds, ElementsAre(0.1, 0.2, HUGE_VAL));
  EXPECT_THAT(all->counts, ElementsAre(11, 2, 1));
  const auto one = ParseMetricHistogram(kScrape, "x_seconds", {{"op", "g"}});
  ASSERT_TRUE(one.ok());
  EXPECT_THAT(one->counts, ElementsAre(1, 2, 1));
  EXPECT_EQ(one->Count(), 4);
  EXPECT_EQ(ParseMetricHistogram(kScrape, "x_seconds", {{"op", "t"}})
                .status()
                .message(),
            "the scrape has no histogram x_seconds");
}

TEST(MetricHistogramTest, RefusesWhatIsMalformed) {
  for (const char* line : {
           "x_seconds_bucket{le=\"1\"} 1\n",  // no infinite bucket
           "x_seconds_bucket{le=\"one\"} 1\n",
           "x_seconds_bucket{le=\"+Inf\"} many\n",
           "x_seconds_bucket{le=\"+Inf\"} -1\n",
           "x_seconds_bucket{le=\"+Inf\" 1\n",
           "x_seconds_bucket{} 1\n",
           "x_seconds_bucket{le=\"1\"} 2\nx_seconds_bucket{le=\"+Inf\"} 1\n",
       }) {
    EXPECT_EQ(ParseMetricHistogram(line, "x_seconds", {}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << line;
  }
}

TEST(MetricHistogramTest, DifferencesAreOfOneRunOfTheServer) {
  const auto difference =
      Difference(Histogram({3, 2, 0, 0, 5}), Histogram({1, 2, 0, 0, 4}));
  ASSERT_TRUE(difference.ok());
  EXPECT_THAT(difference->counts, ElementsAre(2, 0, 0, 0, 1));
  EXPECT_THAT(std::string(Difference(Histogram({1, 0, 0, 0, 0}),
                                     Histogram({3, 0, 0, 0, 0}))
                              .status()
                              .message()),
              HasSubstr("(0, 0.1] s fell from 3 to 1"));
}

TEST(MetricHistogramTest, BoundsBelongToTheBucketBelow) {
  const MetricHistogram histogram = Histogram({0, 0, 0, 0, 0});
  EXPECT_EQ(histogram.BucketOf(0), 0u);
  EXPECT_EQ(histogram.BucketOf(0.1), 0u);
  EXPECT_EQ(histogram.BucketOf(0.11), 1u);
  EXPECT_EQ(histogram.BucketOf(9), 4u);
}

TEST(HistogramComparisonTest, ABucketMoreOrLessAgrees) {
  LatencyHistogram client;
  client.Add(absl::Milliseconds(300), 100);
  struct Case {
    std::vector<double> counts;
    bool agrees;
  };
  for (const Case& c : {
           Case{{100, 0, 0, 0, 0}, false},
           Case{{0, 100, 0, 0, 0}, true},
           Case{{0, 0, 100, 0, 0}, true},
           Case{{0, 0, 0, 100, 0}, true},
           Case{{0, 0, 0, 0, 100}, false},
       }) {
    const auto compared = CompareHistogram("x", client, Histogram(c.counts));
    ASSERT_EQ(compared.size(), 3u);
    for (const ComparedQuantile& quantile : compared) {
      EXPECT_EQ(quantile.agrees, c.agrees) << quantile.Describe();
    }
  }
}

TEST(HistogramComparisonTest, ComparesEachPercentile) {
  LatencyHistogram client;
  client.Add(absl::Milliseconds(50), 97);
  client.Add(absl::Milliseconds(350), 3);
  // The server saw none above 100 ms.
  const auto compared =
      CompareHistogram("x_seconds", client, Histogram({100, 0, 0, 0, 0}));
  ASSERT_EQ(compared.size(), 3u);
  EXPECT_TRUE(compared[0].agrees);
  EXPECT_TRUE(compared[1].agrees);
  EXPECT_FALSE(compared[2].agrees);
  EXPECT_EQ(compared[2].Describe(),
            "x_seconds p99: client 0.35 s, server (0, 0.1] s");
}

TEST(HistogramComparisonTest, OneThatCountedNothingDisagrees) {
  LatencyHistogram client;
  EXPECT_TRUE(
      CompareHistogram("x", client, Histogram({0, 0, 0, 0, 0})).empty());
  const auto unseen = CompareHistogram("x", client, Histogram({5, 0, 0, 0, 0}));
  ASSERT_FALSE(unseen.empty());
  EXPECT_FALSE(unseen[0].agrees);
  EXPECT_EQ(unseen[0].Describe(), "x: client counted 0, server 5");
}

// Of the three histograms that are compared, each with all in one bucket.
std::string ServerScrape(int first_token, int inter_token, int total) {
  std::string text;
  for (const auto& [name, labels, counts] :
       {std::tuple("sparseserve_time_to_first_token_seconds", "", first_token),
        std::tuple("sparseserve_inter_token_latency_seconds", "", inter_token),
        std::tuple("sparseserve_request_duration_seconds",
                   "operation=\"stream_generate\",", total)}) {
    for (const char* le : {"0.01", "0.1", "1", "+Inf"}) {
      absl::StrAppend(&text, name, "_bucket{", labels, "le=\"", le, "\"} ",
                      counts, "\n");
    }
  }
  return text;
}

TEST(HistogramComparisonTest, ReportsNameTheMetricAndBothValues) {
  const std::vector<LoadClass> classes = {{.name = "a"}};
  LoadRecorder recorder(classes);
  RequestOutcome outcome = {.kind = EndKind::kFinished};
  AddTokens(absl::Milliseconds(500), 1, outcome);
  AddTokens(absl::Milliseconds(501), 1, outcome);
  outcome.ended = absl::Milliseconds(502);
  recorder.Record({}, outcome);
  const auto compared =
      CompareWithServer(recorder, ServerScrape(7, 7, 7), ServerScrape(8, 8, 8));
  ASSERT_TRUE(compared.ok()) << compared.status();
  EXPECT_EQ(compared->size(), 9u);
  auto report = BuildLoadReport(recorder, absl::Seconds(1));
  *report.mutable_server_comparison() = BuildServerComparison(compared);
  EXPECT_FALSE(report.server_comparison().agrees());
  const std::string text = LoadReportText(report);
  // 500 ms lies two buckets above (0, 0.01]; 1 ms lies in it.
  EXPECT_THAT(text, HasSubstr("DISAGREES: "
                              "sparseserve_time_to_first_token_seconds p50: "
                              "client 0.5 s, server (0, 0.01] s"));
  EXPECT_THAT(text, HasSubstr("sparseserve_request_duration_seconds p99: "
                              "client 0.502 s"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("inter_token")));
}

TEST(HistogramComparisonTest, RequestsOfOthersDisagree) {
  const std::vector<LoadClass> classes = {{.name = "a"}};
  LoadRecorder recorder(classes);
  RequestOutcome outcome = {.kind = EndKind::kFinished};
  AddTokens(absl::Milliseconds(5), 1, outcome);
  outcome.ended = absl::Milliseconds(6);
  for (int i = 0; i < 3; ++i) recorder.Record({}, outcome);
  const auto agrees = [&](int requests) {
    const auto comparison = BuildServerComparison(CompareWithServer(
        recorder, ServerScrape(0, 0, 0), ServerScrape(requests, 0, requests)));
    return comparison.agrees();
  };
  EXPECT_TRUE(agrees(3));
  EXPECT_FALSE(agrees(2));
  EXPECT_FALSE(agrees(4));
  // It may have ended on the server, or not.
  recorder.Record({}, {.kind = EndKind::kCancelled});
  EXPECT_TRUE(agrees(3));
  EXPECT_TRUE(agrees(4));
  EXPECT_FALSE(agrees(6));
}

TEST(HistogramComparisonTest, SaysWhatCannotBeCompared) {
  const std::vector<LoadClass> classes = {{.name = "a"}};
  LoadRecorder recorder(classes);
  EXPECT_EQ(CompareWithServer(recorder, "", "").status().message(),
            "the scrape has no histogram "
            "sparseserve_time_to_first_token_seconds");
  const auto restarted =
      CompareWithServer(recorder, ServerScrape(7, 7, 7), ServerScrape(7, 3, 7));
  EXPECT_THAT(std::string(restarted.status().message()),
              HasSubstr("sparseserve_inter_token_latency_seconds: bucket"));
  const auto comparison = BuildServerComparison(restarted.status());
  EXPECT_FALSE(comparison.agrees());
  EXPECT_THAT(comparison.error(), HasSubstr("started anew"));
}

}  // namespace
}  // namespace sparseserve
