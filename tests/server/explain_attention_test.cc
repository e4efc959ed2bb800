// ExplainAttention through the whole server, on a model that computes nothing.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/server_fixture.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PartsOf;
using testing::ServerFixture;
using testing::StatusParts;
using testing::TestCall;

constexpr char kPath[] = "/sparseserve.v1.InferenceService/ExplainAttention";

v1::ExplainAttentionRequest RequestFor(const std::string& text) {
  v1::ExplainAttentionRequest request;
  request.mutable_options()->set_text(text);
  return request;
}

class ExplainAttentionTest : public ServerFixture {
 protected:
  ExplainAttentionTest() { explains_ = true; }

  v1::ExplainAttentionResponse Explain(
      const v1::ExplainAttentionRequest& request) {
    TestCall call(channel(), kPath, request.SerializeAsString());
    v1::ExplainAttentionResponse response;
    call.Read(response);
    const StatusParts parts = PartsOf(call.Finish());
    EXPECT_EQ(parts.code, grpc::StatusCode::OK) << parts.message;
    return response;
  }

  void ExpectWrong(const v1::ExplainAttentionRequest& request,
                   const std::vector<std::string>& fields,
                   const std::string& requirement) {
    const StatusParts parts = StatusOf(kPath, request);
    EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT) << parts.message;
    EXPECT_EQ(parts.fields, fields);
    EXPECT_THAT(parts.message, HasSubstr(requirement));
  }
};

TEST_F(ExplainAttentionTest, IsOffByDefault) {
  explains_ = false;
  Start();
  const StatusParts parts = StatusOf(kPath, RequestFor("hello"));
  EXPECT_EQ(parts.code, grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(parts.reason, "METHOD_DISABLED");
  EXPECT_THAT(parts.message, HasSubstr("started with --explain"));
}

TEST_F(ExplainAttentionTest, AnswersForEveryHeadAndTheLastToken) {
  Start();
  v1::ExplainAttentionRequest request = RequestFor("hello");
  request.mutable_options()->set_request_id("why");
  const v1::ExplainAttentionResponse response = Explain(request);
  EXPECT_EQ(response.request_id(), "why");
  EXPECT_EQ(response.model(), "models/fake");
  EXPECT_THAT(response.pieces(), ElementsAre("h", "e", "l", "l", "o"));
  EXPECT_EQ(response.token_ids_size(), 5);
  EXPECT_EQ(response.sampled_rows(), 5);
  ASSERT_GT(response.heads_size(), 1);
  const auto& last = response.heads(response.heads_size() - 1);
  EXPECT_EQ(response.heads_size(), (last.layer() + 1) * (last.head() + 1));
  ASSERT_EQ(response.queries_size(), 1);
  EXPECT_EQ(response.queries(0).position(), 4);
  EXPECT_EQ(response.queries(0).heads_size(), response.heads_size());
  EXPECT_EQ(response.attention().plan(), "dense");
  EXPECT_EQ(Series("sparseserve_requests_finished_total",
                   {"operation=\"explain_attention\""}),
            1);
}

TEST_F(ExplainAttentionTest, DensityIsThePatterns) {
  Start();
  v1::ExplainAttentionRequest request = RequestFor(std::string(300, 'a'));
  request.mutable_options()
      ->mutable_attention()
      ->mutable_pattern()
      ->mutable_xattention();
  const v1::ExplainAttentionResponse response = Explain(request);
  // Five blocks of queries visit 1 + 2 + 2 + 2 + 2 of 15 blocks.
  for (const v1::HeadProfile& head : response.heads()) {
    EXPECT_EQ(head.density(), 0.6);
  }
  EXPECT_EQ(response.attention().prefill_density(), 0.6);
}

TEST_F(ExplainAttentionTest, RefusesWhatDrawsText) {
  Start();
  v1::ExplainAttentionRequest request = RequestFor("hello");
  v1::GenerateOptions& options = *request.mutable_options();
  options.mutable_sampling()->set_top_k(3);
  options.mutable_stop();
  options.mutable_logprobs();
  options.mutable_latency_target();
  options.set_max_divergence(0);
  options.set_priority(1);
  ExpectWrong(
      request,
      {"options.sampling", "options.stop", "options.logprobs",
       "options.latency_target", "options.max_divergence", "options.priority"},
      "must be absent");
}

TEST_F(ExplainAttentionTest, RefusesQueriesThatCannotBe) {
  Start();
  v1::ExplainAttentionRequest request = RequestFor("hello");
  request.add_query_positions(5);
  ExpectWrong(request, {"query_positions[0]"}, "below 5");
  request.set_query_positions(0, -1);
  ExpectWrong(request, {"query_positions[0]"}, "at least 0");
  request.set_query_positions(0, 3);
  request.add_query_positions(3);
  ExpectWrong(request, {"query_positions[1]"}, "above 3");
  request.clear_query_positions();
  for (int i = 0; i < 17; ++i) request.add_query_positions(i);
  ExpectWrong(request, {"query_positions"}, "at most 16");
  request.clear_query_positions();
  request.set_top_keys(65);
  ExpectWrong(request, {"top_keys"}, "from 1 to 64");
  request.set_top_keys(0);
  ExpectWrong(request, {"top_keys"}, "from 1 to 64");
}

TEST_F(ExplainAttentionTest, RefusesAPromptThatIsTooLong) {
  engine_options_.context_tokens = 10'000;
  engine_options_.kv_pages = 200;
  Start();
  const StatusParts parts = StatusOf(kPath, RequestFor(std::string(8193, 'a')));
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(parts.reason, "PROMPT_TOO_LONG");
  EXPECT_THAT(parts.message,
              HasSubstr("8193 tokens long, must be at most 8192"));
}

TEST_F(ExplainAttentionTest, DoesOneAtATime) {
  gated_ = true;
  Start();
  TestCall first(channel(), kPath, RequestFor("first").SerializeAsString());
  WaitForSeries("sparseserve_requests_running", {}, 1);
  const StatusParts parts = StatusOf(kPath, RequestFor("second"));
  EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(parts.reason, "QUEUE_FULL");
  EXPECT_TRUE(parts.retry.has_value());
  gate().Open();
  EXPECT_TRUE(first.Finish().ok());
}

TEST_F(ExplainAttentionTest, ACallerWhoLeavesMakesRoomForTheNext) {
  gated_ = true;
  Start();
  {
    TestCall first(channel(), kPath, RequestFor("first").SerializeAsString());
    WaitForSeries("sparseserve_requests_running", {}, 1);
  }  // cancels
  gate().Open();
  WaitForSeries("sparseserve_requests_running", {}, 0);
  // The loop lets go of what ended within its turn.
  v1::ExplainAttentionRequest request = RequestFor("second");
  StatusParts parts = StatusOf(kPath, request);
  while (parts.code == grpc::StatusCode::UNAVAILABLE) {
    parts = StatusOf(kPath, request);
  }
  EXPECT_EQ(parts.code, grpc::StatusCode::OK) << parts.message;
}

}  // namespace
}  // namespace sparseserve
