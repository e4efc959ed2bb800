#include "client/load/load_recorder.h"

#include <vector>

#include "client/load/load_report_builder.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

absl::Duration Ms(int64_t ms) { return absl::Milliseconds(ms); }

// Meant to be sent at 1,000 ms, sent at 1,004 ms; first token at `first`, two
// more with `gap` between; 0: no token.
RequestOutcome Outcome(EndKind kind, int64_t first, int64_t gap,
                       int64_t ended) {
  RequestOutcome outcome = {.kind = kind, .sent = Ms(1004)};
  if (first > 0) {
    for (int i = 0; i < 3; ++i) AddTokens(Ms(first + i * gap), 1, outcome);
  }
  outcome.ended = Ms(ended);
  outcome.prompt_tokens = 10;
  return outcome;
}

PlannedRequest Planned(size_t load_class = 0) {
  return {.intended = Ms(1000), .load_class = load_class};
}

TEST(JudgeTest, ComparesWithEveryTargetSinceIntended) {
  const LoadClass asks = {.name = "a",
                          .time_to_first_token = Ms(100),
                          .time_per_output_token = Ms(20),
                          .total = Ms(500),
                          .deadline = Ms(600)};
  struct Case {
    RequestOutcome outcome;
    Verdict verdict;
  };
  for (const Case& c : {
           Case{Outcome(EndKind::kFinished, 1100, 20, 1140), Verdict::kMet},
           // Late since it was meant to be sent, though not since it was.
           Case{Outcome(EndKind::kFinished, 1102, 20, 1142), Verdict::kMissed},
           Case{Outcome(EndKind::kFinished, 1100, 21, 1142), Verdict::kMissed},
           Case{Outcome(EndKind::kFinished, 1100, 20, 1501), Verdict::kMissed},
           Case{Outcome(EndKind::kRefused, 0, 0, 1001), Verdict::kMissed},
           Case{Outcome(EndKind::kExpired, 0, 0, 1600), Verdict::kMissed},
           Case{Outcome(EndKind::kFailed, 1050, 1, 1060), Verdict::kMissed},
           Case{Outcome(EndKind::kCancelled, 0, 0, 1100), Verdict::kUnknown},
           Case{Outcome(EndKind::kCancelled, 1050, 1, 1060), Verdict::kUnknown},
           Case{Outcome(EndKind::kCancelled, 1200, 1, 1300), Verdict::kUnknown},
           // It was too late already when the run ended.
           Case{Outcome(EndKind::kInterrupted, 0, 0, 1101), Verdict::kMissed},
           Case{Outcome(EndKind::kInterrupted, 1200, 1, 1300),
                Verdict::kMissed},
       }) {
    EXPECT_EQ(Judge(asks, Planned(), c.outcome), c.verdict)
        << static_cast<int>(c.outcome.kind) << " " << c.outcome.ended;
  }
}

TEST(JudgeTest, WithoutTargetsItIsEnoughToFinish) {
  const LoadClass asks = {.name = "a"};
  EXPECT_EQ(
      Judge(asks, Planned(), Outcome(EndKind::kFinished, 99'000, 9, 99'999)),
      Verdict::kMet);
  EXPECT_EQ(Judge(asks, Planned(), Outcome(EndKind::kRefused, 0, 0, 1001)),
            Verdict::kMissed);
}

TEST(JudgeTest, OneTokenHasNoTimeBetween) {
  RequestOutcome outcome = {.kind = EndKind::kFinished};
  AddTokens(Ms(1010), 1, outcome);
  outcome.ended = Ms(1011);
  EXPECT_EQ(
      Judge({.name = "a", .time_per_output_token = Ms(1)}, Planned(), outcome),
      Verdict::kMet);
}

TEST(LoadRecorderTest, LatenciesBeginWhenRequestsWereMeantToBeSent) {
  const std::vector<LoadClass> classes = {{.name = "a"}};
  LoadRecorder recorder(classes);
  recorder.Record(Planned(), Outcome(EndKind::kFinished, 1100, 20, 1140));
  const LoadTally& all = recorder.all();
  EXPECT_EQ(all.first_token.Max(), Ms(100));
  EXPECT_EQ(all.total.Max(), Ms(140));
  EXPECT_EQ(all.inter_token.count(), 2);
  EXPECT_EQ(all.inter_token.Max(), Ms(20));
  EXPECT_EQ(all.per_output_token.Max(), Ms(20));
  EXPECT_EQ(recorder.lag().Max(), Ms(4));
  EXPECT_EQ(recorder.first_token_since_sent().Max(), Ms(96));
  EXPECT_EQ(recorder.total_since_sent().Max(), Ms(136));
}

TEST(LoadRecorderTest, ReportsClassesAndAllTogether) {
  const std::vector<LoadClass> classes = {
      {.name = "chat", .time_to_first_token = Ms(100)}, {.name = "batch"}};
  LoadRecorder recorder(classes);
  recorder.Record(Planned(0), Outcome(EndKind::kFinished, 1100, 20, 1140));
  recorder.Record(Planned(0), Outcome(EndKind::kFinished, 1300, 20, 1340));
  RequestOutcome refused = Outcome(EndKind::kRefused, 0, 0, 1010);
  refused.reason = "QUEUE_FULL";
  refused.prompt_tokens = 0;
  recorder.Record(Planned(0), refused);
  recorder.Record(Planned(1), Outcome(EndKind::kFinished, 5000, 20, 5040));
  recorder.Record(Planned(1), Outcome(EndKind::kCancelled, 0, 0, 1500));

  const auto report = BuildLoadReport(recorder, absl::Seconds(4));
  ASSERT_EQ(report.classes_size(), 2);
  const auto& chat = report.classes(0);
  EXPECT_EQ(chat.name(), "chat");
  EXPECT_EQ(chat.requests(), 3);
  EXPECT_EQ(chat.finished(), 2);
  EXPECT_EQ(chat.refused(), 1);
  EXPECT_EQ(chat.met(), 1);
  EXPECT_DOUBLE_EQ(chat.attainment(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(chat.goodput_requests_per_s(), 0.25);
  EXPECT_DOUBLE_EQ(chat.goodput_tokens_per_s(), 0.75);
  EXPECT_DOUBLE_EQ(chat.output_tokens_per_s(), 1.5);
  ASSERT_EQ(chat.reasons_size(), 1);
  EXPECT_EQ(chat.reasons(0).outcome(), "refused");
  EXPECT_EQ(chat.reasons(0).reason(), "QUEUE_FULL");
  const auto& batch = report.classes(1);
  EXPECT_EQ(batch.cancelled(), 1);
  EXPECT_DOUBLE_EQ(batch.attainment(), 1);
  const auto& all = report.all();
  EXPECT_EQ(all.requests(), 5);
  EXPECT_EQ(all.output_tokens(), 9);
  EXPECT_EQ(all.prompt_tokens(), 40);
  EXPECT_DOUBLE_EQ(all.attainment(), 0.5);
  EXPECT_EQ(all.time_to_first_token().count(), 3);
  EXPECT_DOUBLE_EQ(all.time_to_first_token().max_s(), 4);
  EXPECT_EQ(report.generator_lag().count(), 5);
  EXPECT_FALSE(report.generator_lagged());
}

TEST(LoadRecorderTest, WarnsOfAGeneratorThatLags) {
  LatencyHistogram lag;
  EXPECT_FALSE(GeneratorLagged(lag));
  lag.Add(Ms(2), 99);
  lag.Add(Ms(500));
  EXPECT_FALSE(GeneratorLagged(lag));
  lag.Add(Ms(500), 2);
  EXPECT_TRUE(GeneratorLagged(lag));
}

}  // namespace
}  // namespace sparseserve
