#include "server/server.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/status_details.h"
#include "sparseserve/v1/model_service.pb.h"
#include "tests/server/rpc/server_fixture.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::FakeExecutor;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kGeneratePath;
using testing::kStreamGeneratePath;
using ::testing::Not;
using ::testing::Pair;
using testing::PartsOf;
using testing::ServerFixture;
using testing::StatusParts;
using testing::StreamedAnswer;
using testing::StreamRequest;
using testing::TestCall;
using testing::TestChannel;
using testing::TextOptions;
using testing::WholeRequest;

constexpr char kHealthCheckPath[] = "/grpc.health.v1.Health/Check";
constexpr char kHealthWatchPath[] = "/grpc.health.v1.Health/Watch";
constexpr char kReflectionPath[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

// HealthCheckRequest{service} and HealthCheckResponse{status}.
std::string HealthRequest(const std::string& service) {
  return service.empty() ? ""
                         : std::string("\x0A") +
                               static_cast<char>(service.size()) + service;
}
const std::string kServing("\x08\x01", 2);
const std::string kNotServing("\x08\x02", 2);

class ServerTest : public ServerFixture {
 protected:
  // What GetModel says of the served model.
  v1::Model GetModel() {
    v1::GetModelRequest request;
    request.set_name("models/fake");
    TestCall call(channel(), "/sparseserve.v1.ModelService/GetModel",
                  request.SerializeAsString());
    v1::GetModelResponse response;
    EXPECT_TRUE(call.Read(response));
    EXPECT_TRUE(call.Finish().ok());
    return response.model();
  }
};

TEST_F(ServerTest, StreamsAnAnswerAndItsReport) {
  Start();
  const StreamedAnswer answer = Stream(TextOptions("hello", 12));
  EXPECT_EQ(answer.status.code, grpc::StatusCode::OK) << answer.status.message;
  EXPECT_EQ(answer.text.size(), 12);
  EXPECT_EQ(answer.token_ids.size(), 12);
  ASSERT_TRUE(answer.report.has_value());
  EXPECT_EQ(answer.report->model(), "models/fake");
  EXPECT_EQ(answer.report->usage().prompt_tokens(), 5);
  EXPECT_EQ(answer.report->usage().output_tokens(), 12);
  EXPECT_EQ(answer.report->finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.report->attention().plan(), "dense");
}

// What the engine was asked to do, in order and without repetition.
class SeenPatterns {
 public:
  void Note(const StepPlan& plan) {
    for (const StepSlice& slice : plan.slices) {
      const PatternSpec& pattern = slice.attention->pattern;
      if (seen_.empty() || seen_.back() != pattern) seen_.push_back(pattern);
    }
  }
  const std::vector<PatternSpec>& seen() const { return seen_; }

 private:
  std::vector<PatternSpec> seen_;  // written by the loop's thread
};

TEST_F(ServerTest, AChosenPatternReachesEngineReportMetricsAndLog) {
  SeenPatterns patterns;
  prepare_ = [&patterns](FakeExecutor& executor) {
    executor.on_step = [&patterns](const StepPlan& plan) {
      patterns.Note(plan);
      return absl::OkStatus();
    };
  };
  Start();
  v1::GenerateOptions options = TextOptions(std::string(300, 'a'), 3);
  v1::XAttentionPattern& pattern =
      *options.mutable_attention()->mutable_pattern()->mutable_xattention();
  pattern.set_stride(16);
  pattern.set_dense_layers(1);
  const StreamedAnswer answer = Stream(options);
  ASSERT_EQ(answer.status.code, grpc::StatusCode::OK) << answer.status.message;
  EXPECT_THAT(patterns.seen(), ElementsAre(PatternSpec(XAttentionPattern{
                                   .stride = 16, .dense_layers = 1})));

  const v1::AttentionReport& report = answer.report->attention();
  EXPECT_EQ(report.plan(), "");
  // One of the model's two layers.
  ASSERT_EQ(report.patterns_size(), 2);
  EXPECT_EQ(report.patterns(0).pattern(), "dense");
  EXPECT_EQ(report.patterns(0).share(), 0.5);
  EXPECT_EQ(report.patterns(1).pattern(), "xattention");
  EXPECT_EQ(report.patterns(1).share(), 0.5);
  // Five blocks of queries visit 1 + 2 + 2 + 2 + 2 of 15 blocks.
  EXPECT_EQ(report.prefill_density(), 0.6);
  EXPECT_EQ(report.decode_density(), 1);
  EXPECT_FALSE(report.has_recall_estimate());
  EXPECT_TRUE(report.reproducible());

  EXPECT_EQ(Series("sparseserve_attention_heads_total",
                   {"pattern=\"xattention\"", "phase=\"prefill\""}),
            1);
  EXPECT_EQ(Series("sparseserve_attention_heads_total",
                   {"pattern=\"xattention\"", "phase=\"decode\""}),
            0);
  EXPECT_EQ(Series("sparseserve_attention_blocks_total",
                   {"outcome=\"skipped\"", "phase=\"prefill\""}),
            6);
  EXPECT_EQ(
      Series("sparseserve_attention_density_ratio_sum", {"phase=\"prefill\""}),
      0.6);
  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), HasSubstr("\"pattern\":\"xattention\",\"density\":"));
  EXPECT_THAT(Log(), Not(HasSubstr("\"plan\"")));
}

TEST_F(ServerTest, SampledRequestsReportAndCountTheirRecall) {
  settings_.recall_sample_share = 1;
  Start();
  v1::GenerateOptions options = TextOptions(std::string(300, 'a'), 3);
  const v1::AttentionReport dense = Stream(options).report->attention();
  EXPECT_EQ(dense.recall_estimate(), 1);
  EXPECT_EQ(dense.recall_rows(), 0);
  options.mutable_attention()
      ->mutable_pattern()
      ->mutable_xattention()
      ->set_dense_layers(1);
  const v1::AttentionReport sparse = Stream(options).report->attention();
  EXPECT_EQ(sparse.recall_estimate(), 0.5);
  EXPECT_EQ(sparse.recall_p5(), 0.5);
  EXPECT_EQ(sparse.recall_rows(), 16);
  // Both query heads of a layer, the first of which is dense.
  const char kCount[] = "sparseserve_attention_recall_estimate_ratio_count";
  EXPECT_EQ(Series(kCount, {"pattern=\"xattention\""}), 32);
  EXPECT_EQ(Series(kCount, {"pattern=\"dense\""}), 32);
}

TEST_F(ServerTest, AShareOfTheRequestsIsSampled) {
  settings_.recall_sample_share = 0.5;
  Start();
  v1::GenerateOptions options = TextOptions("hello", 1);
  options.mutable_attention()->mutable_pattern()->mutable_sink_window();
  int sampled = 0;
  constexpr int kRequests = 60;
  for (int i = 0; i < kRequests; ++i) {
    sampled += Stream(options).report->attention().recall_rows() > 0 ? 1 : 0;
  }
  // Each draws by itself: once in 10^9 runs it is fewer, or more.
  EXPECT_GT(sampled, 7);
  EXPECT_LT(sampled, kRequests - 7);
}

TEST_F(ServerTest, APlanOfTheConfigIsListedAndRuns) {
  settings_.attention_plans = {{"fast", XAttentionPattern{.stride = 32}}};
  Start();
  const v1::Model model = GetModel();
  ASSERT_EQ(model.available_plans_size(), 2);
  EXPECT_EQ(model.available_plans(1).name(), "fast");

  v1::GenerateOptions options = TextOptions(std::string(300, 'a'), 3);
  options.mutable_attention()->set_plan("fast");
  const StreamedAnswer answer = Stream(options);
  ASSERT_EQ(answer.status.code, grpc::StatusCode::OK) << answer.status.message;
  EXPECT_EQ(answer.report->attention().plan(), "fast");
  EXPECT_EQ(answer.report->attention().prefill_density(), 0.6);
  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), HasSubstr("\"plan\":\"fast\",\"pattern\":"));
}

TEST_F(ServerTest, AMapOfTheConfigIsListedAndRunsHeadByHead) {
  const SinkWindowPattern near = {4, 64};
  settings_.attention_plans = {
      {.name = "streaming", .map = {{XAttentionPattern()}, {near, {1}, {}}}}};
  std::atomic<int> followed = 0;
  prepare_ = [&followed, near](FakeExecutor& executor) {
    executor.on_step = [&followed, near](const StepPlan& plan) {
      for (const StepSlice& slice : plan.slices) {
        const PatternMap* map = slice.attention->map.get();
        if (map != nullptr && map->at(1, 0) == PatternSpec(near) &&
            map->at(0, 0) == PatternSpec(XAttentionPattern())) {
          ++followed;
        }
      }
      return absl::OkStatus();
    };
  };
  Start();
  EXPECT_THAT(GetModel().available_plans(1).patterns(),
              ElementsAre("xattention", "sink_window"));

  v1::GenerateOptions options = TextOptions(std::string(300, 'a'), 3);
  options.mutable_attention()->set_plan("streaming");
  const StreamedAnswer answer = Stream(options);
  ASSERT_EQ(answer.status.code, grpc::StatusCode::OK) << answer.status.message;
  EXPECT_EQ(followed, 3);
  const v1::AttentionReport& report = answer.report->attention();
  EXPECT_EQ(report.plan(), "streaming");
  // By default the first two layers are dense in spite of "xattention".
  ASSERT_EQ(report.patterns_size(), 2);
  EXPECT_EQ(report.patterns(0).pattern(), "dense");
  EXPECT_EQ(report.patterns(0).share(), 0.5);
  EXPECT_EQ(report.patterns(1).pattern(), "sink_window");
  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), HasSubstr("\"pattern\":\"xattention+sink_window\""));
}

TEST_F(ServerTest, APlanThatTheModelCannotHaveIsAnError) {
  Server::Options options;
  options.settings.attention_plans = {{"near", SlidingWindowPattern{64}}};
  options.model_name = "models/fake";
  options.listen = "127.0.0.1:0";
  const auto server =
      Server::Start(std::move(options),
                    std::make_unique<testing::FakeEngine>(engine_options_));
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(server.status().message()),
              HasSubstr("attention_plans[0].pattern is sliding_window"));
}

TEST_F(ServerTest, AttentionThatCannotBeIsRefusedAndCounted) {
  Start();
  v1::GenerateOptions options = TextOptions("a", 1);
  options.mutable_attention()->set_plan("other");
  EXPECT_EQ(Stream(options).status.reason, "PLAN_NOT_FOUND");
  options.mutable_attention()
      ->mutable_pattern()
      ->mutable_sliding_window()
      ->set_window_tokens(64);
  EXPECT_EQ(Stream(options).status.reason, "PATTERN_UNSUPPORTED");
  options.mutable_attention()
      ->mutable_pattern()
      ->mutable_xattention()
      ->set_stride(0);
  EXPECT_THAT(Stream(options).status.fields,
              ElementsAre("options.attention.pattern.xattention.stride"));
  EXPECT_EQ(Series("sparseserve_requests_rejected_total",
                   {"reason=\"invalid_argument\""}),
            3);
}

TEST_F(ServerTest, AWholeAnswerEqualsTheStreamedOne) {
  Start();
  const v1::GenerateOptions options = TextOptions("hello", 40);
  TestCall call(channel(), kGeneratePath,
                WholeRequest(options).SerializeAsString());
  v1::GenerateResponse whole;
  ASSERT_TRUE(call.Read(whole));
  EXPECT_TRUE(call.Finish().ok());
  const StreamedAnswer streamed = Stream(options);
  EXPECT_EQ(whole.text(), streamed.text);
  EXPECT_EQ(
      std::vector<TokenId>(whole.token_ids().begin(), whole.token_ids().end()),
      streamed.token_ids);
  EXPECT_EQ(whole.report().usage().output_tokens(), 40);
}

TEST_F(ServerTest, ManyStreamsAtOnceEachGetTheirOwnAnswer) {
  Start();
  const auto prompt = [](int i) { return "prompt " + std::to_string(i); };
  std::vector<std::unique_ptr<TestCall>> calls;
  for (int i = 0; i < 20; ++i) {
    calls.push_back(
        std::make_unique<TestCall>(channel(), kStreamGeneratePath,
                                   StreamRequest(TextOptions(prompt(i), 30))));
  }
  std::vector<std::string> texts;
  for (auto& call : calls) texts.push_back(ReadAll(*call).text);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(texts[i], Stream(TextOptions(prompt(i), 30)).text) << i;
  }
}

TEST_F(ServerTest, RequestIdsAreEchoedLoggedAndReported) {
  Start();
  v1::GenerateOptions options = TextOptions("hello", 2);
  TestCall::Options call_options;
  call_options.metadata = {
      {"x-request-id", "from-metadata"},
      {"traceparent",
       "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}};
  TestCall first(channel(), kStreamGeneratePath, StreamRequest(options),
                 call_options);
  EXPECT_EQ(ReadAll(first).report->request_id(), "from-metadata");
  EXPECT_EQ(first.trailers().find("x-request-id")->second, "from-metadata");

  options.set_request_id("from-options");
  TestCall second(channel(), kGeneratePath,
                  WholeRequest(options).SerializeAsString(), call_options);
  v1::GenerateResponse response;
  ASSERT_TRUE(second.Read(response));
  EXPECT_TRUE(second.Finish().ok());
  EXPECT_EQ(response.report().request_id(), "from-options");
  EXPECT_EQ(second.trailers().find("x-request-id")->second, "from-options");

  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), HasSubstr(R"("request_id":"from-metadata")"));
  EXPECT_THAT(Log(), HasSubstr(R"("request_id":"from-options")"));
  EXPECT_THAT(Log(),
              HasSubstr(R"("trace_id":"4bf92f3577b34da6a3ce929d0e0e4736",)"
                        R"("traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736)"
                        R"(-00f067aa0ba902b7-01")"));
}

TEST_F(ServerTest, ReportAndMetricsAgreeOnEachTarget) {
  Start();
  for (const int tokens : {1, 2}) {
    v1::GenerateOptions options = TextOptions("hello", tokens);
    options.mutable_latency_target()
        ->mutable_time_per_output_token()
        ->set_seconds(60);
    options.mutable_latency_target()->mutable_total()->set_seconds(3600);
    const v1::TargetOutcome outcome = Stream(options).report->target_outcome();
    EXPECT_EQ(outcome.has_time_per_output_token_met(), tokens == 2);
    EXPECT_TRUE(outcome.has_total_met());
  }
  EXPECT_EQ(Series("sparseserve_latency_targets_total",
                   {"target=\"time_per_output_token\""}),
            1);
  EXPECT_EQ(Series("sparseserve_latency_targets_total", {"target=\"total\""}),
            2);
}

// An hour back each time that anyone looks, from noon of the second day.
TEST_F(ServerTest, AWallClockThatStepsBackChangesNoTimes) {
  const auto looks = std::make_shared<std::atomic<int>>(0);
  wall_clock_ = [looks] {
    return absl::UnixEpoch() + absl::Hours(36 - (*looks)++);
  };
  Start();
  v1::GenerateOptions options = TextOptions("hello", 3);
  options.mutable_latency_target()->mutable_total()->set_seconds(600);
  const StreamedAnswer answer = Stream(options);
  ASSERT_EQ(answer.status.code, grpc::StatusCode::OK) << answer.status.message;
  const v1::Timings& timings = answer.report->timings();
  EXPECT_GE(timings.queue().nanos(), 0);
  EXPECT_GT(timings.total().nanos(), 0);
  EXPECT_LT(timings.total().seconds(), 600);
  server().Drain(absl::Minutes(1));
  // Lines have the time that there is.
  EXPECT_THAT(Log(), HasSubstr(R"("time":"1970-01-02T10:00:00.000Z")"));
  EXPECT_THAT(Log(), Not(HasSubstr("_ms\":-")));
  EXPECT_EQ(Series("sparseserve_metrics_clamped_total"), 0);
}

TEST_F(ServerTest, MalformedRequestIdsAreRefused) {
  Start();
  TestCall::Options call_options;
  call_options.metadata = {{"x-request-id", std::string(129, 'x')}};
  TestCall metadata(channel(), kGeneratePath,
                    WholeRequest(TextOptions("a", 1)).SerializeAsString(),
                    call_options);
  EXPECT_THAT(PartsOf(metadata.Finish()).fields, ElementsAre("x-request-id"));

  v1::GenerateOptions options = TextOptions("a", 1);
  options.set_request_id("with space");
  const StatusParts parts = StatusOf(kGeneratePath, WholeRequest(options));
  EXPECT_THAT(parts.fields, ElementsAre("options.request_id"));
  EXPECT_EQ(parts.request_id.size(), 32);  // one was made
}

TEST_F(ServerTest, LogsNeitherPromptNorAnswer) {
  Start();
  const StreamedAnswer answer = Stream(TextOptions("secret words", 30));
  StatusOf(kGeneratePath, WholeRequest(TextOptions("secret words", -5)));
  server().Drain(absl::Minutes(1));
  const std::string log = Log();
  EXPECT_THAT(log, HasSubstr(R"("output_tokens":30)"));
  EXPECT_THAT(log, HasSubstr(R"("reason":"INVALID_FIELD")"));
  EXPECT_THAT(log, Not(HasSubstr("secret")));
  EXPECT_THAT(log, Not(HasSubstr(answer.text.substr(0, 10))));
}

TEST_F(ServerTest, BadRequestsAreRefusedBeforeTheQueue) {
  Start();
  v1::GenerateOptions options = TextOptions("a", 0);
  options.mutable_sampling()->set_top_p(2);
  for (const char* path : {kGeneratePath, kStreamGeneratePath}) {
    const StatusParts parts = StatusOf(path, WholeRequest(options));
    EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(parts.fields, ElementsAre("options.sampling.top_p",
                                          "options.stop.max_output_tokens"));
  }
  EXPECT_EQ(Series("sparseserve_requests_rejected_total",
                   {"reason=\"invalid_argument\""}),
            2);
}

TEST_F(ServerTest, PromptsOverTheLimitAreCountedAsSuch) {
  Start();
  EXPECT_EQ(StatusOf(kGeneratePath,
                     WholeRequest(TextOptions(std::string(1000, 'a'), 1)))
                .reason,
            "PROMPT_TOO_LONG");
  EXPECT_EQ(Series("sparseserve_requests_rejected_total",
                   {"reason=\"prompt_too_long\""}),
            1);
}

TEST_F(ServerTest, AnEmptyRequestIsRefused) {
  Start();
  for (const char* path : {kGeneratePath, kStreamGeneratePath}) {
    EXPECT_THAT(StatusOf(path, v1::GenerateRequest()).fields,
                ElementsAre("options.prompt"));
  }
}

TEST_F(ServerTest, BytesThatAreNoRequestAreInvalidEverywhere) {
  Start();
  for (const char* path : {kGeneratePath, kStreamGeneratePath,
                           "/sparseserve.v1.InferenceService/Tokenize",
                           "/sparseserve.v1.InferenceService/Detokenize",
                           "/sparseserve.v1.ModelService/ListModels",
                           "/sparseserve.v1.ModelService/GetModel"}) {
    TestCall call(channel(), path, "\xFF\xFF\xFF");
    const StatusParts parts = PartsOf(call.Finish());
    EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT) << path;
    EXPECT_EQ(parts.reason, "INVALID_FIELD");
    EXPECT_THAT(parts.fields, ElementsAre("request"));
  }
}

TEST_F(ServerTest, FieldsThatTheServerDoesNotKnowAreInvalidEverywhere) {
  Start();
  for (const char* path : {kGeneratePath, kStreamGeneratePath,
                           "/sparseserve.v1.InferenceService/Tokenize",
                           "/sparseserve.v1.InferenceService/Detokenize",
                           "/sparseserve.v1.ModelService/ListModels",
                           "/sparseserve.v1.ModelService/GetModel"}) {
    TestCall call(channel(), path, "\xC0\x3E\x05");  // field 1000, varint 5
    EXPECT_THAT(PartsOf(call.Finish()).fields, ElementsAre("request.1000"))
        << path;
  }
  // options, field 1, of which field 1000.
  TestCall call(channel(), kGeneratePath, "\x0A\x03\xC0\x3E\x05");
  EXPECT_THAT(PartsOf(call.Finish()).fields, ElementsAre("options.1000"));
}

TEST_F(ServerTest, MethodsThatNobodyHasAreNamedAndCounted) {
  Start();
  for (const std::string& path :
       {std::string("/sparseserve.v1.InferenceService/Embed"),
        std::string("/other.Service/") + std::string(2000, 'x')}) {
    TestCall call(channel(), path, "x",
                  {.metadata = {{"x-request-id", "id-1"}}});
    const StatusParts parts = PartsOf(call.Finish());
    EXPECT_EQ(parts.code, grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(parts.reason, "METHOD_NOT_FOUND");
    EXPECT_EQ(parts.metadata.at("method").substr(0, 15), path.substr(0, 15));
    EXPECT_LT(parts.message.size(), 200);
    EXPECT_EQ(parts.request_id, "id-1");
  }
  WaitForSeries("sparseserve_grpc_server_call_duration_seconds_count",
                {"grpc_method=\"other\"", "UNIMPLEMENTED"}, 2);
  EXPECT_EQ(Series("sparseserve_grpc_server_calls_started_total",
                   {"grpc_method=\"other\""}),
            2);
  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), HasSubstr(R"("method":"/sparseserve.v1.Inferenc)"));
}

TEST_F(ServerTest, TextThatIsNotUtf8IsNamed) {
  Start();
  std::string bytes = WholeRequest(TextOptions("Z", 1)).SerializeAsString();
  bytes[bytes.find('Z')] = '\xFF';
  TestCall call(channel(), kStreamGeneratePath, bytes);
  EXPECT_THAT(PartsOf(call.Finish()).fields, ElementsAre("options.text"));
}

TEST_F(ServerTest, MessagesOverTheLimitAreRefused) {
  settings_.max_request_bytes = 2048;
  Start();
  TestCall call(
      channel(), kGeneratePath,
      WholeRequest(TextOptions(std::string(3000, 'a'), 1)).SerializeAsString());
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServerTest, ACancelStopsTheSequenceAndFreesItsPages) {
  gated_ = true;
  Start();
  TestCall call(channel(), kStreamGeneratePath,
                StreamRequest(TextOptions("hello", 500)));
  gate().Allow(1);
  EXPECT_TRUE(call.Read().has_value());
  call.Cancel();
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::CANCELLED);
  // The call ends on the server, too, while the step is still running.
  WaitForSeries("sparseserve_grpc_server_call_duration_seconds_count",
                {"CANCELLED"}, 1);
  gate().Open();
  WaitForSeries("sparseserve_requests_cancelled_total", {"cause=\"client\""},
                1);
  EXPECT_EQ(Series("sparseserve_kv_cache_pages", {"state=\"used\""}), 0);
}

TEST_F(ServerTest, AWholeAnswerCanBeCancelledToo) {
  gated_ = true;
  Start();
  TestCall call(channel(), kGeneratePath,
                WholeRequest(TextOptions("hello", 500)).SerializeAsString());
  gate().WaitForArrivals(1);
  call.Cancel();
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::CANCELLED);
  // The call ends on the server, too, while the step is still running.
  WaitForSeries("sparseserve_grpc_server_call_duration_seconds_count",
                {"CANCELLED"}, 1);
  gate().Open();
  WaitForSeries("sparseserve_requests_cancelled_total", {"cause=\"client\""},
                1);
}

TEST_F(ServerTest, ADeadlineThatPassesStopsTheSequence) {
  gated_ = true;
  Start();
  TestCall call(channel(), kStreamGeneratePath,
                StreamRequest(TextOptions("hello", 500)),
                {.timeout = absl::Milliseconds(200)});
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // The client's timer can run ahead of the server's.
  WaitForSeries("sparseserve_grpc_server_call_duration_seconds_count",
                {"StreamGenerate"}, 1);
  gate().Open();
  WaitForSeries("sparseserve_kv_cache_pages", {"state=\"used\""}, 0);
  EXPECT_EQ(Series("sparseserve_requests_finished_total",
                   {"finish_reason=\"length\""}),
            0);
}

TEST_F(ServerTest, ACallWithoutADeadlineGetsTheDefaultOne) {
  settings_.default_deadline = absl::Milliseconds(100);
  engine_options_.context_tokens = 100'000;
  engine_options_.kv_pages = 2000;
  prepare_ = [](FakeExecutor& executor) {
    executor.on_step = [](const StepPlan&) {
      absl::SleepFor(absl::Milliseconds(1));
      return absl::OkStatus();
    };
  };
  Start();
  TestCall call(channel(), kGeneratePath,
                WholeRequest(TextOptions("hello", 90'000)).SerializeAsString(),
                {.timeout = absl::InfiniteDuration()});
  const StatusParts parts = PartsOf(call.Finish());
  EXPECT_EQ(parts.code, grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(parts.reason, "DEADLINE_EXPIRED");
}

TEST_F(ServerTest, AReaderThatTakesNothingIsCutOffAndOthersGoOn) {
  // A kilobyte a token fills the connection's window soon.
  engine_options_.pieces = {std::string(1000, 'x')};
  engine_options_.context_tokens = 20'000;
  engine_options_.kv_pages = 700;
  prepare_ = [](FakeExecutor& executor) {
    executor.draw = [](const StepSlice&) {
      return testing::FakeTokenizer::kFirstPiece;
    };
  };
  Start();
  TestChannel unread(server().port(), {.window_bytes = 65'535});
  TestCall stopped(unread, kStreamGeneratePath,
                   StreamRequest(TextOptions("hello", 19'000)));
  WaitForSeries("sparseserve_requests_cancelled_total",
                {"cause=\"slow_consumer\""}, 1);
  EXPECT_EQ(Series("sparseserve_kv_cache_pages", {"state=\"used\""}), 0);
  TestCall reader(channel(), kStreamGeneratePath,
                  StreamRequest(TextOptions("hello", 5)));
  EXPECT_EQ(ReadAll(reader).text.size(), 5000);
  // What was on its way arrives, then the reason.
  const StreamedAnswer answer = ReadAll(stopped);
  EXPECT_EQ(answer.status.reason, "SLOW_CONSUMER");
  EXPECT_EQ(answer.text, std::string(answer.text.size(), 'x'));
}

TEST_F(ServerTest, AReaderThatNeverTakesTheRestIsDisconnected) {
  engine_options_.pieces = {std::string(1000, 'x')};
  engine_options_.context_tokens = 20'000;
  engine_options_.kv_pages = 700;
  settings_.slow_consumer_timeout = absl::Milliseconds(50);
  settings_.max_buffered_messages = 65'536;
  prepare_ = [](FakeExecutor& executor) {
    executor.draw = [](const StepSlice&) {
      return testing::FakeTokenizer::kFirstPiece;
    };
  };
  Start();
  TestChannel unread(server().port(), {.window_bytes = 65'535});
  TestCall stopped(unread, kStreamGeneratePath,
                   StreamRequest(TextOptions("hello", 19'000)));
  // The call ends on the server, though its client does nothing.
  WaitForSeries("sparseserve_grpc_server_call_duration_seconds_count",
                {"StreamGenerate", "CANCELLED"}, 1);
  EXPECT_EQ(Series("sparseserve_stream_buffered_bytes"), 0);
}

TEST_F(ServerTest, AFinishedAnswerThatIsNeverTakenIsASlowConsumers) {
  engine_options_.pieces = {std::string(1000, 'x')};
  // Long enough to generate the answer, which fills the connection's window
  // and gRPC's buffer.
  settings_.slow_consumer_timeout = absl::Seconds(1);
  prepare_ = [](FakeExecutor& executor) {
    executor.draw = [](const StepSlice&) {
      return testing::FakeTokenizer::kFirstPiece;
    };
  };
  Start();
  TestChannel unread(server().port(), {.window_bytes = 65'535});
  TestCall stopped(unread, kStreamGeneratePath,
                   StreamRequest(TextOptions("hello", 300)));
  WaitForSeries("sparseserve_requests_finished_total",
                {"finish_reason=\"length\""}, 1);
  WaitForSeries("sparseserve_requests_cancelled_total",
                {"stage=\"write\"", "cause=\"slow_consumer\""}, 1);
  EXPECT_EQ(stopped.Finish().error_code(), grpc::StatusCode::CANCELLED);
  server().Drain(absl::Minutes(1));
  EXPECT_THAT(Log(), HasSubstr(R"("reason":"SLOW_CONSUMER")"));
}

TEST_F(ServerTest, AFullQueueRefusesAndClientsRetryUntilThereIsRoom) {
  gated_ = true;
  settings_.max_running_sequences = 1;
  settings_.max_queued_requests = 1;
  Start();
  const std::string request = StreamRequest(TextOptions("hello", 3));
  TestCall running(channel(), kStreamGeneratePath, request);
  gate().WaitForArrivals(1);
  // One of these waits, the other is refused: then the queue is full.
  TestCall queued(channel(), kStreamGeneratePath, request);
  TestCall also_queued(channel(), kStreamGeneratePath, request);
  WaitForSeries("sparseserve_requests_rejected_total",
                {"reason=\"queue_full\""}, 1);
  TestCall refused(channel(), kStreamGeneratePath, request);
  const StatusParts parts = PartsOf(refused.Finish());
  EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(parts.reason, "QUEUE_FULL");
  // How fast requests started lately says more than the default of 200.
  int64_t pushback_ms = 0;
  const auto trailers = refused.trailers();
  const auto pushback = trailers.find("grpc-retry-pushback-ms");
  ASSERT_NE(pushback, trailers.end());
  ASSERT_TRUE(absl::SimpleAtoi(pushback->second, &pushback_ms));
  EXPECT_GE(pushback_ms, 1);
  EXPECT_LE(pushback_ms, 60'000);

  TestChannel retrying(server().port(), {.service_config = R"({
    "methodConfig": [{
      "name": [{"service": "sparseserve.v1.InferenceService"}],
      "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.2s",
                      "maxBackoff": "1s", "backoffMultiplier": 2,
                      "retryableStatusCodes": ["UNAVAILABLE"]}}]})"});
  TestCall persistent(retrying, kStreamGeneratePath, request);
  WaitForSeries("sparseserve_requests_rejected_total",
                {"reason=\"queue_full\""}, 3);
  gate().Open();
  const StreamedAnswer answer = ReadAll(persistent);
  EXPECT_EQ(answer.status.code, grpc::StatusCode::OK) << answer.status.message;
  EXPECT_EQ(answer.text.size(), 3);
  EXPECT_EQ(ReadAll(running).text.size(), 3);
  EXPECT_EQ(ReadAll(queued).text.size() + ReadAll(also_queued).text.size(), 3);
}

TEST_F(ServerTest, DrainingFinishesWhatRunsAndRefusesWhatComes) {
  gated_ = true;
  Start();
  TestCall watcher(channel(), kHealthWatchPath, HealthRequest(""));
  EXPECT_EQ(watcher.Read(), kServing);
  TestCall running(channel(), kStreamGeneratePath,
                   StreamRequest(TextOptions("hello", 20)));
  gate().WaitForArrivals(1);
  std::thread drain([this] { server().Drain(absl::Minutes(1)); });
  EXPECT_EQ(watcher.Read(), kNotServing);
  WaitForSeries("sparseserve_server_draining", {}, 1);

  TestCall late(channel(), kGeneratePath,
                WholeRequest(TextOptions("hello", 1)).SerializeAsString());
  const StatusParts parts = PartsOf(late.Finish());
  EXPECT_EQ(parts.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(parts.reason, "DRAINING");
  EXPECT_EQ(late.trailers().find("grpc-retry-pushback-ms")->second, "0");

  gate().Open();
  const StreamedAnswer answer = ReadAll(running);
  EXPECT_EQ(answer.status.code, grpc::StatusCode::OK);
  EXPECT_EQ(answer.text.size(), 20);
  drain.join();
}

TEST_F(ServerTest, DrainingCancelsTheRestAtItsDeadline) {
  prepare_ = [](FakeExecutor& executor) {
    executor.on_step = [](const StepPlan&) {
      absl::SleepFor(absl::Milliseconds(1));
      return absl::OkStatus();
    };
  };
  engine_options_.context_tokens = 100'000;
  engine_options_.kv_pages = 2000;
  Start();
  TestCall running(channel(), kStreamGeneratePath,
                   StreamRequest(TextOptions("hello", 90'000)));
  EXPECT_TRUE(running.Read().has_value());
  server().Drain(absl::ZeroDuration());
  const StreamedAnswer answer = ReadAll(running);
  EXPECT_EQ(answer.status.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(answer.status.reason, "DRAINING");
}

TEST_F(ServerTest, HealthAnswersForTheServerAndEachService) {
  Start();
  for (const char* service :
       {"", "sparseserve.v1.InferenceService", "sparseserve.v1.ModelService"}) {
    TestCall call(channel(), kHealthCheckPath, HealthRequest(service));
    EXPECT_EQ(call.Read(), kServing) << service;
    EXPECT_TRUE(call.Finish().ok());
  }
  TestCall unknown(channel(), kHealthCheckPath, HealthRequest("other"));
  EXPECT_EQ(unknown.Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, AStepThatHangsTurnsHealthOffUntilItEnds) {
  gated_ = true;
  settings_.stall_timeout = absl::Milliseconds(400);
  Start();
  TestCall watcher(channel(), kHealthWatchPath, HealthRequest(""));
  EXPECT_EQ(watcher.Read(), kServing);
  TestCall hung(channel(), kStreamGeneratePath,
                StreamRequest(TextOptions("hello", 1)));
  EXPECT_EQ(watcher.Read(), kNotServing);
  WaitForSeries("sparseserve_model_ready", {}, 0);
  gate().Open();
  EXPECT_EQ(watcher.Read(), kServing);
  EXPECT_EQ(ReadAll(hung).status.code, grpc::StatusCode::OK);
  WaitForSeries("sparseserve_model_ready", {}, 1);
}

TEST_F(ServerTest, ReflectionListsTheServices) {
  Start();
  // ServerReflectionRequest{list_services = "*"}.
  TestCall call(channel(), kReflectionPath, "\x3A\x01*");
  const auto reply = call.Read();
  ASSERT_TRUE(reply.has_value());
  EXPECT_THAT(*reply, HasSubstr("sparseserve.v1.InferenceService"));
  EXPECT_THAT(*reply, HasSubstr("sparseserve.v1.ModelService"));
  EXPECT_THAT(*reply, HasSubstr("grpc.health.v1.Health"));
}

TEST_F(ServerTest, AFailedDeviceFailsItsCallsAndTurnsHealthOff) {
  prepare_ = [](FakeExecutor& executor) {
    executor.on_step = [](const StepPlan&) {
      return absl::InternalError("the device is gone");
    };
  };
  Start();
  TestCall watcher(channel(), kHealthWatchPath, HealthRequest(""));
  EXPECT_EQ(watcher.Read(), kServing);
  const StreamedAnswer answer = Stream(TextOptions("hello", 5));
  EXPECT_EQ(answer.status.code, grpc::StatusCode::INTERNAL);
  EXPECT_EQ(answer.status.reason, "DEVICE_FAILED");
  EXPECT_THAT(DeviceFailure().message(), HasSubstr("the device is gone"));
  server().Abandon();
  EXPECT_EQ(watcher.Read(), kNotServing);
}

TEST_F(ServerTest, AFailedSliceFailsItsCallAlone) {
  gated_ = true;
  prepare_ = [](FakeExecutor& executor) {
    executor.slice_status = [](const StepSlice& slice) {
      return slice.prompt.front() == 'X' ? absl::InternalError("nan")
                                         : absl::OkStatus();
    };
  };
  Start();
  TestCall good(channel(), kStreamGeneratePath,
                StreamRequest(TextOptions("good", 10)));
  TestCall bad(channel(), kStreamGeneratePath,
               StreamRequest(TextOptions("X", 10)));
  gate().Open();
  const StatusParts parts = ReadAll(bad).status;
  EXPECT_EQ(parts.code, grpc::StatusCode::INTERNAL);
  EXPECT_EQ(parts.reason, "NUMERIC_FAULT");
  EXPECT_EQ(ReadAll(good).text.size(), 10);
}

TEST_F(ServerTest, TokenizesAndDetokenizes) {
  Start();
  v1::TokenizeRequest request;
  request.set_text("abc");
  TestCall tokenize(channel(), "/sparseserve.v1.InferenceService/Tokenize",
                    request.SerializeAsString());
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(tokenize.Read(tokens));
  EXPECT_THAT(tokens.token_ids(), ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(tokens.pieces(), ElementsAre("a", "b", "c"));

  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  back.add_token_ids(0xFF);
  TestCall detokenize(channel(), "/sparseserve.v1.InferenceService/Detokenize",
                      back.SerializeAsString());
  v1::DetokenizeResponse text;
  ASSERT_TRUE(detokenize.Read(text));
  EXPECT_EQ(text.text(), "abc\xEF\xBF\xBD");
}

TEST_F(ServerTest, DescribesItsModel) {
  Start();
  TestCall list(channel(), "/sparseserve.v1.ModelService/ListModels", "");
  v1::ListModelsResponse models;
  ASSERT_TRUE(list.Read(models));
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "models/fake");
  EXPECT_EQ(models.models(0).limits().max_prompt_tokens(), 999);
  EXPECT_EQ(models.models(0).limits().default_max_output_tokens(), 256);
  EXPECT_EQ(models.next_page_token(), "");

  v1::GetModelRequest request;
  request.set_name("models/fake");
  TestCall get(channel(), "/sparseserve.v1.ModelService/GetModel",
               request.SerializeAsString());
  v1::GetModelResponse model;
  ASSERT_TRUE(get.Read(model));
  EXPECT_EQ(model.model().SerializeAsString(),
            models.models(0).SerializeAsString());

  request.set_name("models/other");
  const StatusParts missing =
      StatusOf("/sparseserve.v1.ModelService/GetModel", request);
  EXPECT_EQ(missing.code, grpc::StatusCode::NOT_FOUND);
  request.set_name("");
  EXPECT_THAT(StatusOf("/sparseserve.v1.ModelService/GetModel", request).fields,
              ElementsAre("name"));
}

TEST_F(ServerTest, APortInUseIsAnError) {
  Start();
  Server::Options options;
  options.model_name = "models/fake";
  options.listen = "127.0.0.1:" + std::to_string(server().port());
  const auto second = Server::Start(
      options,
      std::make_unique<testing::FakeEngine>(testing::FakeEngine::Options()));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(options.listen));
}

TEST_F(ServerTest, ADefaultOutputLimitBeyondTheContextIsAnError) {
  Server::Options options;
  options.model_name = "models/fake";
  options.listen = "127.0.0.1:0";
  options.settings.default_max_output_tokens = 1001;
  const auto server = Server::Start(
      options,
      std::make_unique<testing::FakeEngine>(testing::FakeEngine::Options()));
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(server.status().message()),
              HasSubstr("default_max_output_tokens is 1001"));
}

TEST_F(ServerTest, StoppingWithCallsUnderWayEndsThem) {
  gated_ = true;
  Start();
  std::vector<std::unique_ptr<TestCall>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::make_unique<TestCall>(
        channel(), i % 2 == 0 ? kStreamGeneratePath : kGeneratePath,
        StreamRequest(TextOptions("hello", 400))));
  }
  gate().WaitForArrivals(1);
  std::thread drain([this] { server().Drain(absl::ZeroDuration()); });
  gate().Open();
  for (auto& call : calls) {
    const grpc::StatusCode code = call->Finish().error_code();
    EXPECT_TRUE(code == grpc::StatusCode::UNAVAILABLE ||
                code == grpc::StatusCode::OK)
        << code;
  }
  drain.join();
}

}  // namespace
}  // namespace sparseserve
