// One server with the default model, called as backends call it.

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparseserve/v1/inference_service.pb.h"
#include "tests/integration/server_process.h"
#include "tests/server/rpc/status_parts.h"
#include "tests/server/rpc/test_call.h"

namespace sparseserve {
namespace {

using testing::ChildProcess;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PartsOf;
using testing::ServerProcess;
using testing::StatusParts;
using testing::TestCall;
using testing::TestChannel;

constexpr char kGenerate[] = "/sparseserve.v1.InferenceService/Generate";
constexpr char kStream[] = "/sparseserve.v1.InferenceService/StreamGenerate";

// Greedy, of exactly `tokens` tokens.
v1::GenerateOptions Greedy(const std::string& text, int tokens) {
  v1::GenerateOptions options;
  options.set_text(text);
  options.mutable_sampling()->set_temperature(0);
  options.mutable_stop()->set_max_output_tokens(tokens);
  options.mutable_stop()->set_ignore_eos(true);
  return options;
}

// Both generating requests look the same on the wire.
std::string Bytes(const v1::GenerateOptions& options) {
  v1::StreamGenerateRequest request;
  *request.mutable_options() = options;
  return request.SerializeAsString();
}

// Prose of about `tokens` tokens, four bytes and a half each.
std::string Prose(int tokens) {
  std::ifstream file("tests/golden/logits/prose/jargon_culture.txt");
  std::string text(tokens * 9 / 2, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  EXPECT_TRUE(file);
  return text;
}

struct Answer {
  std::string text;
  int tokens = 0;
  bool reported = false;
  v1::GenerationReport report;
  StatusParts status;
};

Answer ReadAll(TestCall& call) {
  Answer answer;
  v1::StreamGenerateResponse message;
  while (call.Read(message)) {
    EXPECT_FALSE(answer.reported);
    answer.reported = message.has_report();
    if (message.has_report()) answer.report = message.report();
    answer.text += message.output().text();
    answer.tokens += message.output().token_ids_size();
  }
  answer.status = PartsOf(call.Finish());
  return answer;
}

class ServingTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string config = ::testing::TempDir() + "serving.textproto";
    std::ofstream(config)
        << "request_limits { max_buffered_messages: 16 }\n"
           "attention_plans { name: 'sparse' pattern { xattention { } } }";
    server_ = new ServerProcess({"--config=" + config});
  }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }

  ServingTest() : channel_(server_->port()) {}
  ~ServingTest() override { server_->ExpectIdle(); }

  ServerProcess& server() { return *server_; }
  TestChannel& channel() { return channel_; }
  std::unique_ptr<ChildProcess> StartClient(int tokens) {
    return std::make_unique<ChildProcess>(std::vector<std::string>{
        SPARSESERVE_STREAM_CLIENT, std::to_string(server_->port()),
        std::to_string(tokens)});
  }
  double Cancelled(const std::string& cause) {
    return server_->Series("sparseserve_requests_cancelled_total",
                           {"cause=\"" + cause + "\""});
  }

 private:
  static ServerProcess* server_;
  TestChannel channel_;
};

ServerProcess* ServingTest::server_ = nullptr;

TEST_F(ServingTest, AnswersAChat) {
  v1::GenerateOptions options = Greedy("", 24);
  auto& message = *options.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("What is the capital of France?");
  TestCall call(channel(), kStream, Bytes(options));
  const Answer answer = ReadAll(call);
  EXPECT_EQ(answer.status.code, grpc::StatusCode::OK);
  EXPECT_THAT(answer.text, HasSubstr("Paris"));
  ASSERT_TRUE(answer.reported);
  EXPECT_EQ(answer.report.usage().output_tokens(), 24);
  EXPECT_EQ(answer.report.attention().plan(), "dense");
  EXPECT_EQ(answer.report.attention().prefill_density(), 1);
  EXPECT_TRUE(answer.report.attention().reproducible());
}

TEST_F(ServingTest, AWholeAnswerEqualsTheStreamedOne) {
  const std::string request = Bytes(Greedy("The three laws of motion are", 32));
  TestCall stream(channel(), kStream, request);
  const Answer streamed = ReadAll(stream);
  EXPECT_EQ(streamed.tokens, 32);
  TestCall call(channel(), kGenerate, request);
  v1::GenerateResponse whole;
  ASSERT_TRUE(call.Read(whole));
  EXPECT_TRUE(call.Finish().ok());
  EXPECT_EQ(whole.text(), streamed.text);
  EXPECT_EQ(whole.report().usage().prompt_tokens(),
            streamed.report.usage().prompt_tokens());
}

TEST_F(ServingTest, ASparsePatternSkipsBlocksAndReproduces) {
  v1::GenerateOptions options = Greedy(Prose(2000), 24);
  TestCall exact(channel(), kStream, Bytes(options));
  const Answer dense = ReadAll(exact);
  ASSERT_TRUE(dense.reported) << dense.status.message;
  EXPECT_GE(dense.report.usage().prompt_tokens(), 1000);
  EXPECT_EQ(dense.report.attention().plan(), "dense");
  EXPECT_EQ(dense.report.attention().prefill_density(), 1);
  EXPECT_EQ(dense.report.attention().decode_density(), 1);
  EXPECT_EQ(dense.report.attention().recall_estimate(), 1);

  v1::XAttentionPattern& pattern =
      *options.mutable_attention()->mutable_pattern()->mutable_xattention();
  pattern.set_stride(8);
  pattern.set_threshold(0.9f);
  const double skipped =
      server().Series("sparseserve_attention_blocks_total",
                      {"phase=\"prefill\"", "outcome=\"skipped\""});
  TestCall first(channel(), kStream, Bytes(options));
  const Answer sparse = ReadAll(first);
  ASSERT_TRUE(sparse.reported) << sparse.status.message;
  const v1::AttentionReport& report = sparse.report.attention();
  EXPECT_LT(report.prefill_density(), 0.8);
  EXPECT_GT(report.prefill_density(), 0.1);
  EXPECT_EQ(report.decode_density(), 1);
  EXPECT_FALSE(report.has_recall_estimate());
  EXPECT_TRUE(report.reproducible());
  // All but the first two of 30 layers.
  ASSERT_EQ(report.patterns_size(), 2);
  EXPECT_EQ(report.patterns(0).pattern(), "xattention");
  EXPECT_DOUBLE_EQ(report.patterns(0).share(), 28.0 / 30);
  EXPECT_GT(server().Series("sparseserve_attention_blocks_total",
                            {"phase=\"prefill\"", "outcome=\"skipped\""}),
            skipped);

  // Beside another prompt, so that it is cut elsewhere.
  TestCall other(channel(), kStream, Bytes(Greedy(Prose(300), 40)));
  options.set_cache_salt("computes all of it");
  TestCall second(channel(), kStream, Bytes(options));
  const Answer again = ReadAll(second);
  EXPECT_EQ(again.text, sparse.text);
  EXPECT_EQ(again.report.attention().prefill_density(),
            report.prefill_density());
  EXPECT_EQ(ReadAll(other).tokens, 40);
}

TEST_F(ServingTest, PromptsOfOneSaltBeginBehindWhatIsComputed) {
  const auto ask = [&](const std::string& salt) {
    // No other test's prompt begins so.
    v1::GenerateOptions options = Greedy("Salted. " + Prose(300), 16);
    options.set_cache_salt(salt);
    TestCall call(channel(), kStream, Bytes(options));
    return ReadAll(call);
  };
  const char hits[] = "sparseserve_prefix_cache_hit_tokens_total";
  const double before = server().Series(hits, {});
  const Answer first = ask("a");
  ASSERT_TRUE(first.reported) << first.status.message;
  EXPECT_EQ(first.report.usage().cached_prompt_tokens(), 0);
  const Answer again = ask("a");
  const int cached = again.report.usage().cached_prompt_tokens();
  EXPECT_GE(cached, again.report.usage().prompt_tokens() - 64);
  EXPECT_LT(cached, again.report.usage().prompt_tokens());
  EXPECT_EQ(again.report.usage().prompt_tokens(),
            first.report.usage().prompt_tokens());
  EXPECT_TRUE(again.report.attention().reproducible());
  EXPECT_EQ(again.text, first.text);
  for (const char* salt : {"b", ""}) {
    const Answer other = ask(salt);
    EXPECT_EQ(other.report.usage().cached_prompt_tokens(), 0);
    EXPECT_EQ(other.text, first.text);
  }
  EXPECT_EQ(server().Series(hits, {}) - before, cached);
  EXPECT_GT(server().Series("sparseserve_kv_cache_pages", {"state=\"cached\""}),
            0);
}

TEST_F(ServingTest, APlanOfTheConfigRunsByItsName) {
  v1::GenerateOptions options = Greedy(Prose(1200), 2);
  options.mutable_attention()->set_plan("sparse");
  TestCall call(channel(), kStream, Bytes(options));
  const Answer answer = ReadAll(call);
  ASSERT_TRUE(answer.reported) << answer.status.message;
  EXPECT_EQ(answer.report.attention().plan(), "sparse");
  EXPECT_LT(answer.report.attention().prefill_density(), 1);
}

TEST_F(ServingTest, AWindowThatTheModelWasNotTrainedWithIsRefused) {
  v1::GenerateOptions options = Greedy("Hello", 2);
  options.mutable_attention()
      ->mutable_pattern()
      ->mutable_sliding_window()
      ->set_window_tokens(1024);
  TestCall call(channel(), kStream, Bytes(options));
  const StatusParts parts = PartsOf(call.Finish());
  EXPECT_EQ(parts.code, grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(parts.reason, "PATTERN_UNSUPPORTED");
}

TEST_F(ServingTest, StopStringsEndTheTextBeforeThem) {
  v1::GenerateOptions options = Greedy("1, 2, 3, 4, 5, 6, 7,", 40);
  options.mutable_stop()->add_strings("11");
  TestCall call(channel(), kStream, Bytes(options));
  const Answer answer = ReadAll(call);
  EXPECT_EQ(answer.report.finish_reason(), v1::FINISH_REASON_STOP_SEQUENCE);
  EXPECT_EQ(answer.report.matched_stop_string(), "11");
  EXPECT_THAT(answer.text, HasSubstr("10"));
  EXPECT_EQ(answer.text.find("11"), std::string::npos);
}

TEST_F(ServingTest, TargetsAreReportedMetOrMissed) {
  v1::GenerateOptions options = Greedy("Hello", 4);
  options.mutable_latency_target()->mutable_time_to_first_token()->set_nanos(1);
  options.mutable_latency_target()->mutable_total()->set_seconds(3600);
  TestCall call(channel(), kStream, Bytes(options));
  const Answer answer = ReadAll(call);
  EXPECT_FALSE(answer.report.target_outcome().time_to_first_token_met());
  EXPECT_TRUE(answer.report.target_outcome().total_met());
  EXPECT_LT(answer.report.attention().slack().nanos(), 0);
}

TEST_F(ServingTest, ACancelledStreamGivesItsPagesBack) {
  const double before = Cancelled("client");
  TestCall call(channel(), kStream, Bytes(Greedy("Once upon a time", 2000)));
  EXPECT_TRUE(call.Read().has_value());
  call.Cancel();
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::CANCELLED);
  server().WaitForSeries("sparseserve_requests_cancelled_total",
                         {"cause=\"client\""}, before + 1);
}

TEST_F(ServingTest, AKilledClientGivesItsPagesBack) {
  const double before = Cancelled("client");
  const auto client = StartClient(2000);
  EXPECT_EQ(client->WaitForLine("message"), "message");
  client->Send(SIGKILL);
  EXPECT_EQ(client->Wait(), -SIGKILL);
  server().WaitForSeries("sparseserve_requests_cancelled_total",
                         {"cause=\"client\""}, before + 1);
}

TEST_F(ServingTest, AStoppedClientIsCutOffAndOthersAreServed) {
  const double before = Cancelled("slow_consumer");
  const auto client = StartClient(4000);
  EXPECT_EQ(client->WaitForLine("message"), "message");
  client->Send(SIGSTOP);
  TestCall other(channel(), kStream, Bytes(Greedy("In the beginning", 40)));
  const Answer answer = ReadAll(other);
  EXPECT_EQ(answer.status.code, grpc::StatusCode::OK);
  EXPECT_EQ(answer.tokens, 40);
  server().WaitForSeries("sparseserve_requests_cancelled_total",
                         {"cause=\"slow_consumer\""}, before + 1);
}

TEST_F(ServingTest, AReaderThatTakesNothingIsCutOffAndOthersAreServed) {
  const double before = Cancelled("slow_consumer");
  TestChannel unread(server().port(), {.window_bytes = 65'535});
  v1::GenerateOptions options = Greedy("Once upon a time", 4000);
  options.mutable_logprobs()->set_top_k(20);
  TestCall call(unread, kStream, Bytes(options));
  EXPECT_TRUE(call.Read().has_value());
  TestCall other(channel(), kStream, Bytes(Greedy("In the beginning", 40)));
  EXPECT_EQ(ReadAll(other).tokens, 40);
  server().WaitForSeries("sparseserve_requests_cancelled_total",
                         {"cause=\"slow_consumer\""}, before + 1);
  EXPECT_EQ(ReadAll(call).status.reason, "SLOW_CONSUMER");
}

TEST_F(ServingTest, ADeadlineEndsTheStreamAndItsSequence) {
  TestCall call(channel(), kStream, Bytes(Greedy("Once upon a time", 4000)),
                {.timeout = absl::Milliseconds(700)});
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ServingTest, ManyStreamsAtOnce) {
  std::vector<std::unique_ptr<TestCall>> calls;
  for (int i = 0; i < 12; ++i) {
    calls.push_back(std::make_unique<TestCall>(
        channel(), kStream,
        Bytes(Greedy("Story number " + std::to_string(i), 16))));
  }
  for (auto& call : calls) {
    const Answer answer = ReadAll(*call);
    EXPECT_EQ(answer.status.code, grpc::StatusCode::OK);
    EXPECT_EQ(answer.tokens, 16);
  }
}

TEST_F(ServingTest, BadInputsAreRefusedByName) {
  v1::GenerateOptions options = Greedy("a", 1);
  options.mutable_sampling()->set_top_p(0);
  options.mutable_token_ids()->add_ids(49152);
  TestCall bad(channel(), kStream, Bytes(options));
  EXPECT_THAT(
      PartsOf(bad.Finish()).fields,
      ElementsAre("options.token_ids.ids[0]", "options.sampling.top_p"));

  TestCall garbage(channel(), kStream, std::string(100, '\xFF'));
  EXPECT_EQ(PartsOf(garbage.Finish()).reason, "INVALID_FIELD");

  TestCall huge(channel(), kStream,
                Bytes(Greedy(std::string(2'000'000, 'Z'), 1)));
  EXPECT_EQ(PartsOf(huge.Finish()).reason, "PROMPT_TOO_LONG");

  std::string words;
  for (int i = 0; i < 9000; ++i) words += "cat ";
  TestCall wordy(channel(), kStream, Bytes(Greedy(words, 1)));
  const StatusParts too_long = PartsOf(wordy.Finish());
  EXPECT_EQ(too_long.reason, "PROMPT_TOO_LONG");
  EXPECT_EQ(too_long.metadata.at("limit"), "8191");
  EXPECT_EQ(too_long.metadata.at("unit"), "tokens");
}

TEST_F(ServingTest, OversizedMessagesAreRefusedAndTheConnectionLives) {
  TestCall call(channel(), kStream,
                Bytes(Greedy(std::string(5 << 20, 'a'), 1)));
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  TestCall next(channel(), kStream, Bytes(Greedy("Hello", 2)));
  EXPECT_EQ(ReadAll(next).status.code, grpc::StatusCode::OK);
}

// gRPC may close the connection.
TEST_F(ServingTest, MetadataOverTheLimitIsRefusedAndTheServerLives) {
  TestCall::Options options;
  options.metadata = {{"x-filler", std::string(20'000, 'a')}};
  TestCall call(channel(), kStream, Bytes(Greedy("Hello", 2)), options);
  EXPECT_FALSE(call.Finish().ok());
  TestChannel another(server().port());
  TestCall next(another, kStream, Bytes(Greedy("Hello", 2)));
  EXPECT_EQ(ReadAll(next).status.code, grpc::StatusCode::OK);
}

TEST_F(ServingTest, LogsEachCallWithoutItsText) {
  v1::GenerateOptions options = Greedy("marmalade is", 3);
  options.set_request_id("find-me");
  TestCall call(channel(), kStream, Bytes(options));
  EXPECT_EQ(ReadAll(call).status.code, grpc::StatusCode::OK);
  const std::string line = server().process().WaitForLine("find-me");
  EXPECT_THAT(line, HasSubstr(R"("code":"OK")"));
  EXPECT_THAT(line, HasSubstr(R"("output_tokens":3)"));
  EXPECT_EQ(server().process().Output().find("marmalade"), std::string::npos);
}

}  // namespace
}  // namespace sparseserve
