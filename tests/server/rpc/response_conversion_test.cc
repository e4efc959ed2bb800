#include "server/rpc/response_conversion.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/util/time_util.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/sample_model.h"

namespace sparseserve {
namespace {

using ::google::protobuf::util::TimeUtil;
using ::testing::ElementsAre;
using testing::SampleModel;

FinishReport SampleReport() {
  FinishReport report;
  report.reason = FinishReason::kLength;
  report.prompt_tokens = 10;
  report.cached_prompt_tokens = 4;
  report.output_tokens = 3;
  report.seed = 0xFFFF'FFFF'FFFF'FFFF;
  report.queue = absl::Milliseconds(5);
  report.prefill = absl::Milliseconds(20);
  report.time_to_first_token = absl::Milliseconds(25);
  report.time_per_output_token = absl::Milliseconds(10);
  report.total = absl::Milliseconds(45);
  report.prefill_blocks = {30, 40};
  report.decode_blocks = {10, 20};
  report.heads = {8};
  return report;
}

v1::GenerationReport Convert(const FinishReport& report,
                             const LatencyTarget& target = {}) {
  const SampleModel sample;
  return ToReport(report, target, sample.model(), "id-1");
}

TEST(ReportTest, SaysHowGenerationEndedAndWhatItTook) {
  const v1::GenerationReport report = Convert(SampleReport());
  EXPECT_EQ(report.request_id(), "id-1");
  EXPECT_EQ(report.model(), "models/sample");
  EXPECT_EQ(report.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(report.usage().prompt_tokens(), 10);
  EXPECT_EQ(report.usage().cached_prompt_tokens(), 4);
  EXPECT_EQ(report.usage().output_tokens(), 3);
  EXPECT_EQ(TimeUtil::DurationToMilliseconds(report.timings().queue()), 5);
  EXPECT_EQ(TimeUtil::DurationToMilliseconds(report.timings().prefill()), 20);
  EXPECT_EQ(
      TimeUtil::DurationToMilliseconds(report.timings().time_to_first_token()),
      25);
  EXPECT_EQ(TimeUtil::DurationToMilliseconds(
                report.timings().time_per_output_token()),
            10);
  EXPECT_EQ(TimeUtil::DurationToMilliseconds(report.timings().total()), 45);
  EXPECT_EQ(report.seed(), -1);
}

TEST(ReportTest, SaysHowAttentionWasComputed) {
  const v1::AttentionReport report = Convert(SampleReport()).attention();
  EXPECT_EQ(report.plan(), "dense");
  ASSERT_EQ(report.patterns_size(), 1);
  EXPECT_EQ(report.patterns(0).pattern(), "dense");
  EXPECT_EQ(report.patterns(0).share(), 1);
  EXPECT_EQ(report.prefill_density(), 0.75);
  EXPECT_EQ(report.decode_density(), 0.5);
  EXPECT_EQ(report.recall_estimate(), 1);
  EXPECT_FALSE(report.has_divergence_estimate());
  EXPECT_EQ(report.fallback_reason(), "");
  EXPECT_FALSE(report.has_predicted_time_to_first_token());
  EXPECT_EQ(
      TimeUtil::DurationToMilliseconds(report.actual_time_to_first_token()),
      25);
  EXPECT_FALSE(report.has_slack());
  EXPECT_TRUE(report.reproducible());
}

TEST(ReportTest, NamesEachPatternWithItsShareTheLargestFirst) {
  FinishReport sample = SampleReport();
  sample.plan = "fast";
  sample.heads = {2};
  sample.heads[PatternSpec(XAttentionPattern()).index()] = 6;
  const v1::AttentionReport report = Convert(sample).attention();
  EXPECT_EQ(report.plan(), "fast");
  ASSERT_EQ(report.patterns_size(), 2);
  EXPECT_EQ(report.patterns(0).pattern(), "xattention");
  EXPECT_EQ(report.patterns(0).share(), 0.75);
  EXPECT_EQ(report.patterns(1).pattern(), "dense");
  EXPECT_EQ(report.patterns(1).share(), 0.25);
  EXPECT_FALSE(report.has_recall_estimate());
}

TEST(ReportTest, SaysWhereTheSameRequestMayGetAnotherText) {
  FinishReport report = SampleReport();
  report.reproducible = false;
  EXPECT_FALSE(Convert(report).attention().reproducible());
}

TEST(ReportTest, WhatDidNotHappenIsAbsent) {
  FinishReport report = SampleReport();
  report.decode_blocks = {};
  report.time_per_output_token.reset();
  const v1::GenerationReport proto = Convert(report);
  EXPECT_FALSE(proto.attention().has_decode_density());
  EXPECT_FALSE(proto.timings().has_time_per_output_token());
  EXPECT_FALSE(proto.has_target_outcome());
}

TEST(ReportTest, TargetsAreMetOrMissedUpToTheirBound) {
  LatencyTarget target;
  target.time_to_first_token = absl::Milliseconds(25);
  target.total = absl::Milliseconds(44);
  const v1::GenerationReport report = Convert(SampleReport(), target);
  EXPECT_TRUE(report.target_outcome().time_to_first_token_met());
  EXPECT_FALSE(report.target_outcome().has_time_per_output_token_met());
  EXPECT_TRUE(report.target_outcome().has_total_met());
  EXPECT_FALSE(report.target_outcome().total_met());
}

TEST(ReportTest, SlackIsNegativeWhenLate) {
  LatencyTarget target;
  target.time_to_first_token = absl::Milliseconds(5);
  EXPECT_EQ(TimeUtil::DurationToMilliseconds(
                Convert(SampleReport(), target).attention().slack()),
            -20);
}

TEST(ReportTest, OneTokenNeitherMeetsNorMissesATimePerToken) {
  FinishReport report = SampleReport();
  report.time_per_output_token.reset();
  LatencyTarget target;
  target.time_per_output_token = absl::Nanoseconds(1);
  EXPECT_FALSE(Convert(report, target).has_target_outcome());
  target.total = absl::Hours(1);
  const v1::TargetOutcome outcome = Convert(report, target).target_outcome();
  EXPECT_TRUE(outcome.total_met());
  EXPECT_FALSE(outcome.has_time_per_output_token_met());
}

TEST(OutputTest, CarriesTextTokensAndLogprobs) {
  const SampleModel sample;
  OutputPiece piece;
  piece.text = "ab";
  piece.token_ids = {257};
  // Token 258 is part of a character.
  piece.logprobs = {{{257, -0.5f}, {{257, -0.5f}, {258, -1.5f}}}};
  const v1::OutputDelta delta = ToOutputDelta(piece, sample.tokenizer());
  EXPECT_EQ(delta.text(), "ab");
  EXPECT_THAT(delta.token_ids(), ElementsAre(257));
  ASSERT_EQ(delta.logprobs_size(), 1);
  EXPECT_EQ(delta.logprobs(0).chosen().token_id(), 257);
  EXPECT_EQ(delta.logprobs(0).chosen().text(), "ab");
  EXPECT_EQ(delta.logprobs(0).chosen().logprob(), -0.5);
  ASSERT_EQ(delta.logprobs(0).alternatives_size(), 2);
  EXPECT_EQ(delta.logprobs(0).alternatives(1).text(), "\xEF\xBF\xBD");

  const v1::GenerateResponse whole =
      ToGenerateResponse(piece, {}, sample.tokenizer());
  EXPECT_EQ(whole.text(), "ab");
  EXPECT_THAT(whole.token_ids(), ElementsAre(257));
  EXPECT_EQ(whole.logprobs_size(), 1);
  EXPECT_TRUE(whole.has_report());
}

TEST(TokenizeResponseTest, ShowsEachTokensText) {
  const SampleModel sample;
  const v1::TokenizeResponse response =
      ToTokenizeResponse({'h', 257, 258}, sample.tokenizer());
  EXPECT_THAT(response.token_ids(), ElementsAre('h', 257, 258));
  EXPECT_THAT(response.pieces(), ElementsAre("h", "ab", "\xEF\xBF\xBD"));
}

TEST(ModelTest, DescribesTheModelAndItsLimits) {
  const SampleModel sample;
  const v1::Model model = ToModel(sample.model());
  EXPECT_EQ(model.name(), "models/sample");
  EXPECT_EQ(model.display_name(), "Sample");
  EXPECT_EQ(model.context_tokens(), 100);
  EXPECT_EQ(model.vocabulary_size(), 259);
  EXPECT_EQ(model.page_tokens(), 64);
  ASSERT_EQ(model.available_plans_size(), 1);
  EXPECT_EQ(model.available_plans(0).name(), "dense");
  EXPECT_TRUE(model.available_plans(0).has_divergence_bound());
  EXPECT_EQ(model.available_plans(0).divergence_bound(), 0);
  std::vector<std::string> patterns;
  for (const v1::SupportedPattern& pattern : model.supported_patterns()) {
    patterns.push_back(pattern.name());
  }
  EXPECT_THAT(patterns,
              ElementsAre("dense", "sink_window", "tri_shape", "xattention",
                          "vertical_slash", "flex_prefill", "similarity_gated",
                          "peak_weight", "quest", "page_top_p", "moba", "delta",
                          "skip_softmax"));
  EXPECT_EQ(model.limits().max_prompt_tokens(), 99);
  EXPECT_EQ(model.limits().default_max_output_tokens(), 16);
  EXPECT_EQ(model.limits().max_stop_strings(), 16);
  EXPECT_EQ(model.limits().max_logprobs(), 20);
  EXPECT_EQ(model.limits().max_tokenized_tokens(), 65'536);
}

TEST(ReportTest, AMeasuredRecallIsReportedWithItsRows) {
  const SampleModel sample;
  FinishReport finish = SampleReport();
  finish.heads = {0, 8};
  finish.recall = RecallEstimate{.mean = 0.875, .p5 = 0.5, .rows = 16};
  const v1::AttentionReport report =
      ToReport(finish, {}, sample.model(), "id").attention();
  EXPECT_EQ(report.recall_estimate(), 0.875);
  EXPECT_EQ(report.recall_p5(), 0.5);
  EXPECT_EQ(report.recall_rows(), 16);
}

TEST(ModelTest, ListsPlansWithoutABoundThatNobodyMeasured) {
  const SampleModel sample;
  ServedModel served = sample.model();
  served.plans.push_back({"fast", {XAttentionPattern()}});
  const v1::Model model = ToModel(served);
  ASSERT_EQ(model.available_plans_size(), 2);
  EXPECT_EQ(model.available_plans(1).name(), "fast");
  EXPECT_THAT(model.available_plans(1).patterns(), ElementsAre("xattention"));
  EXPECT_FALSE(model.available_plans(1).has_divergence_bound());
}

TEST(ModelTest, APlanOfAMapListsEachOfItsPatternsOnce) {
  const SampleModel sample;
  ServedModel served = sample.model();
  const std::vector<int32_t> pattern_of = {0, 1, 2, 1, 2, 1, 2, 1};
  served.plans.push_back(
      {"mixed",
       {.map = std::make_shared<const PatternMap>(
            PatternMap::Create({4, 2},
                               {DensePattern(), SinkWindowPattern{4, 64},
                                SinkWindowPattern{4, 128}},
                               pattern_of)
                .value())}});
  EXPECT_THAT(ToModel(served).available_plans(1).patterns(),
              ElementsAre("dense", "sink_window"));
}

TEST(FallbackNameTest, EveryReasonHasAName) {
  EXPECT_STREQ(FallbackName(FallbackReason::kNone), "");
  for (FallbackReason reason :
       {FallbackReason::kNotCalibrated, FallbackReason::kShortSequence,
        FallbackReason::kLowRecall, FallbackReason::kUnsupportedMask,
        FallbackReason::kUnsupportedShape, FallbackReason::kKernelUnavailable,
        FallbackReason::kNumericGuard, FallbackReason::kPolicy,
        FallbackReason::kRequestOverride}) {
    EXPECT_STRNE(FallbackName(reason), "");
  }
}

}  // namespace
}  // namespace sparseserve
