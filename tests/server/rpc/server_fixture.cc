#include "tests/server/rpc/server_fixture.h"

#include <unistd.h>

#include <utility>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "server/metrics/metrics.h"
#include "tests/testing/scrape.h"

namespace sparseserve::testing {

ServerFixture::ServerFixture() : log_(std::tmpfile()) {}

ServerFixture::~ServerFixture() {
  gate_.Open();
  if (server_ != nullptr) {
    channel_.reset();
    server_->Drain(absl::Minutes(1));
    EXPECT_EQ(Series("sparseserve_kv_cache_pages", {"state=\"used\""}), 0);
    const auto pages = [this](const char* state) {
      return Series("sparseserve_kv_cache_pages", {state}).value_or(-1);
    };
    EXPECT_EQ(pages("state=\"free\"") + pages("state=\"cached\""),
              engine_options_.kv_pages);
    EXPECT_EQ(Series("sparseserve_stream_buffered_bytes"), 0);
    EXPECT_EQ(Series("sparseserve_requests_waiting"), 0);
    EXPECT_EQ(Series("sparseserve_requests_running"), 0);
    EXPECT_EQ(Series("sparseserve_metrics_clamped_total"), 0);
    EXPECT_THAT(executor_->breaches(), ::testing::IsEmpty());
    server_.reset();
  }
  std::fclose(log_);
}

void ServerFixture::Start() {
  engine_options_.max_step_tokens = settings_.max_step_tokens;
  auto engine = std::make_unique<FakeEngine>(engine_options_);
  executor_ = &engine->executor();
  if (gated_) {
    executor_->on_step = [this](const StepPlan&) {
      gate_.Pass();
      return absl::OkStatus();
    };
  }
  if (prepare_) prepare_(*executor_);
  Server::Options options;
  options.settings = settings_;
  options.model_name = "models/fake";
  options.explains = explains_;
  options.listen = "127.0.0.1:0";
  options.log_descriptor = fileno(log_);
  options.wall_clock = wall_clock_;
  options.on_device_failure = [this](const absl::Status& status) {
    MutexLock lock(mu_);
    failure_ = status;
    failed_.NotifyAll();
  };
  options.health = health_.get();
  if (prepare_server_) prepare_server_(options);
  auto server = Server::Start(std::move(options), std::move(engine));
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  channel_ = std::make_unique<TestChannel>(server_->port(), channel_options_);
}

StreamedAnswer ServerFixture::ReadAll(TestCall& call) {
  StreamedAnswer answer;
  v1::StreamGenerateResponse message;
  while (call.Read(message)) {
    // The report is the last message.
    EXPECT_FALSE(answer.report.has_value());
    if (message.has_report()) {
      answer.report = message.report();
    } else {
      answer.text += message.output().text();
      answer.token_ids.insert(answer.token_ids.end(),
                              message.output().token_ids().begin(),
                              message.output().token_ids().end());
    }
  }
  answer.status = PartsOf(call.Finish());
  return answer;
}

StreamedAnswer ServerFixture::Stream(const v1::GenerateOptions& options) {
  TestCall call(channel(), kStreamGeneratePath, StreamRequest(options));
  return ReadAll(call);
}

StatusParts ServerFixture::StatusOf(const std::string& path,
                                    const google::protobuf::Message& request) {
  TestCall call(channel(), path, request.SerializeAsString());
  return PartsOf(call.Finish());
}

std::optional<double> ServerFixture::Series(
    const std::string& name, std::initializer_list<std::string> labels) {
  return SumOfSeries(server_->metrics().Serialize(), name, labels);
}

void ServerFixture::WaitForSeries(const std::string& name,
                                  std::initializer_list<std::string> labels,
                                  double value) {
  const absl::Time give_up = absl::Now() + absl::Minutes(1);
  while (Series(name, labels) != value) {
    ASSERT_LT(absl::Now(), give_up) << name << " does not become " << value;
    absl::SleepFor(absl::Milliseconds(5));
  }
}

std::string ServerFixture::Log() {
  std::string text;
  char buffer[4096];
  off_t at = 0;
  for (ssize_t n; (n = pread(fileno(log_), buffer, sizeof(buffer), at)) > 0;
       at += n) {
    text.append(buffer, n);
  }
  return text;
}

absl::Status ServerFixture::DeviceFailure() {
  MutexLock lock(mu_);
  while (!failure_.has_value()) failed_.Wait(mu_);
  return *failure_;
}

v1::GenerateOptions TextOptions(const std::string& text, int tokens) {
  v1::GenerateOptions options;
  options.set_text(text);
  options.mutable_stop()->set_max_output_tokens(tokens);
  return options;
}

v1::GenerateRequest WholeRequest(const v1::GenerateOptions& options) {
  v1::GenerateRequest request;
  *request.mutable_options() = options;
  return request;
}

std::string StreamRequest(const v1::GenerateOptions& options) {
  v1::StreamGenerateRequest request;
  *request.mutable_options() = options;
  return request.SerializeAsString();
}

}  // namespace sparseserve::testing
