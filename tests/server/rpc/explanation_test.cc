#include "server/rpc/explanation.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/request_limits.h"
#include "tests/server/rpc/sample_model.h"
#include "tests/server/rpc/status_parts.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PartsOf;
using testing::SampleModel;
using testing::StatusParts;

ModelInfo Model(int layers, int heads) {
  ModelInfo info;
  info.layers = layers;
  info.heads = heads;
  info.kv_heads = 1;
  return info;
}

ServedModel Explained(const SampleModel& sample, const ModelInfo& info) {
  ServedModel model = sample.model();
  model.info.layers = info.layers;
  model.info.heads = info.heads;
  model.info.kv_heads = info.kv_heads;
  model.max_explained_tokens = 100;
  return model;
}

TEST(ExplanationTest, TokensAreLimitedByProfilePromptAndServer) {
  EXPECT_EQ(MaxExplainedTokens(Model(30, 9), 1 << 20), kMaxExplainedTokens);
  EXPECT_EQ(MaxExplainedTokens(Model(30, 9), 500), 500);
  const int most = MaxExplainedTokens(Model(80, 64), 1 << 20);
  EXPECT_LT(most, kMaxExplainedTokens);
  EXPECT_LE(AttentionProfile::Bytes({80, 64, 1, most}), kMaxProfileBytes);
  EXPECT_GT(AttentionProfile::Bytes({80, 64, 1, most + 1}), kMaxProfileBytes);
  // Heads alone are too many.
  EXPECT_EQ(MaxExplainedTokens(Model(1 << 12, 1 << 12), 1 << 20), 0);
}

TEST(ExplanationTest, KeysOfAllHeadsTogetherAreLimited) {
  const SampleModel sample;
  const ServedModel model = Explained(sample, Model(80, 64));
  v1::ExplainAttentionRequest request;
  for (int i = 0; i < 16; ++i) request.add_query_positions(i);
  request.set_top_keys(13);
  const StatusParts parts = PartsOf(CheckExplanation(request, model).status());
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(parts.fields, ElementsAre("top_keys"));
  EXPECT_THAT(parts.message,
              HasSubstr("at most 12 with 16 queries in 5120 heads"));
  request.set_top_keys(12);
  const auto options = CheckExplanation(request, model);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->top_keys, 12);
  EXPECT_EQ(options->queries.size(), 16);
}

TEST(ExplanationTest, DeskMakesOneProfileAtATime) {
  const SampleModel sample;
  const ServedModel model = Explained(sample, Model(2, 2));
  ExplanationDesk desk;
  auto first = desk.MakeProfile({{}, 8}, 10, model);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT((*first)->queries(), ElementsAre(9));
  EXPECT_EQ(desk.MakeProfile({{}, 8}, 10, model).status().code(),
            absl::StatusCode::kUnavailable);
  first->reset();
  EXPECT_TRUE(desk.MakeProfile({{3}, 8}, 10, model).ok());
  EXPECT_EQ(desk.MakeProfile({{3}, 8}, 101, model).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(desk.MakeProfile({{10}, 8}, 10, model).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ExplanationTest, SaysWhatTheProfileHolds) {
  AttentionProfile profile(
      {.layers = 2, .heads = 2, .kv_heads = 1, .tokens = 3},
      {.queries = {1}, .top_keys = 2});
  for (int layer = 0; layer < 2; ++layer) {
    profile.visited(layer, 0) = {1, 4};
    for (WeightSums& sums : profile.layer_sums(layer)) {
      sums.recall = 3 * (layer == 0 ? 1.0 : 0.5);
      sums.keys = {3, 0, 0};
      sums.distances = {1, 1, 1};
      sums.heaviest_blocks = {1};
    }
  }
  profile.attended(0, 1)[2] = {0, 0.75f};  // layer 1, head 1; one key is seen
  v1::GenerationReport report;
  report.set_model("models/sample");
  report.mutable_attention()->set_plan("fast");
  const SampleModel sample;
  const v1::ExplainAttentionResponse response =
      ToExplanation(profile, {'a', 0xC3, 0xA9}, report, sample.tokenizer());
  EXPECT_EQ(response.model(), "models/sample");
  EXPECT_THAT(response.pieces(), ElementsAre("a", "", "\u00e9"));
  EXPECT_EQ(response.attention().plan(), "fast");
  EXPECT_EQ(response.attention().recall_estimate(), 0.75);
  ASSERT_EQ(response.heads_size(), 4);
  EXPECT_EQ(response.heads(3).layer(), 1);
  EXPECT_EQ(response.heads(3).head(), 1);
  EXPECT_EQ(response.heads(3).recall(), 0.5);
  EXPECT_EQ(response.heads(3).density(), 0.25);
  EXPECT_EQ(response.heads(3).mean_distance(), 1);
  ASSERT_EQ(response.queries_size(), 1);
  EXPECT_EQ(response.queries(0).position(), 1);
  EXPECT_THAT(response.queries(0).heads(3).positions(), ElementsAre(0));
  EXPECT_THAT(response.queries(0).heads(3).weights(), ElementsAre(0.75f));
  EXPECT_EQ(response.queries(0).heads(2).positions_size(), 0);
}

}  // namespace
}  // namespace sparseserve
