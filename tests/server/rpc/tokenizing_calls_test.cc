// Calls over a real connection while the tokenizer is stuck.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/model_service.h"
#include "server/rpc/request_log.h"
#include "server/rpc/unknown_methods.h"
#include "sparseserve/v1/inference_service.grpc.pb.h"
#include "sparseserve/v1/model_service.grpc.pb.h"
#include "tests/server/rpc/sample_model.h"
#include "tests/server/rpc/status_parts.h"
#include "tests/testing/signal.h"

namespace sparseserve {
namespace {

using testing::PartsOf;
using testing::SampleModel;
using testing::Signal;

// Encodes nothing until it is released.
class StuckTokenizer : public testing::FakeTokenizer {
 public:
  using Tokenizer::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      std::string_view text, bool parse_special,
      int64_t max_tokens) const override {
    ++encodings;
    entered.Set();
    release.Wait();
    return FakeTokenizer::Encode(text, parse_special, max_tokens);
  }

  mutable std::atomic<int> encodings{0};
  mutable Signal entered;
  mutable Signal release;
};

ServedModel ModelWith(const Tokenizer& tokenizer) {
  const SampleModel sample_model;
  const ServedModel& sample = sample_model.model();
  ServedModel model{.name = sample.name,
                    .info = sample.info,
                    .compute_dtype = sample.compute_dtype,
                    .tokenizer = tokenizer,
                    .chat_template = nullptr};
  model.max_request_tokens = sample.max_request_tokens;
  model.max_prompt_tokens = sample.max_prompt_tokens;
  model.default_max_output_tokens = sample.default_max_output_tokens;
  model.max_prompt_bytes = sample.max_prompt_bytes;
  return model;
}

class TokenizingCallsTest : public ::testing::Test {
 protected:
  TokenizingCallsTest() {
    auto server = GrpcServer::Start({.address = "127.0.0.1:0"},
                                    {&inference_, &models_}, &unknown_methods_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    const auto channel =
        grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                            grpc::InsecureChannelCredentials());
    inference_stub_ = v1::InferenceService::NewStub(channel);
    model_stub_ = v1::ModelService::NewStub(channel);
  }
  ~TokenizingCallsTest() override {
    tokenizer_.release.Set();
    server_->Shutdown(absl::ZeroDuration());
    worker_.Stop();
  }

  // Keeps the worker's thread in the tokenizer until the release.
  std::thread StartTokenize() {
    std::thread caller([this] { EXPECT_TRUE(Tokenize().ok()); });
    tokenizer_.entered.Wait();
    return caller;
  }
  grpc::Status Tokenize() {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text("abc");
    v1::TokenizeResponse response;
    return inference_stub_->Tokenize(&context, request, &response);
  }
  // A generation whose text waits for the tokenizer.
  grpc::Status Generate(grpc::ClientContext& context) {
    v1::GenerateRequest request;
    request.mutable_options()->set_text("abc");
    v1::GenerateResponse response;
    return inference_stub_->Generate(&context, request, &response);
  }
  grpc::Status GetModel() {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_name(served_.front().name);
    v1::GetModelResponse response;
    return model_stub_->GetModel(&context, request, &response);
  }

  const StuckTokenizer tokenizer_;
  const std::vector<ServedModel> served_ = {ModelWith(tokenizer_)};
  Metrics metrics_{Metrics::Options{}};
  RequestLog log_{-1, metrics_};
  RequestQueue queue_{{.max_requests = 1}};
  CallObserver observer_{{metrics_, log_, absl::Now, absl::Now}};
  TokenizerWorker worker_{{.max_jobs = 1}};
  Admission admission_{{},
                       {served_.front(), worker_, queue_, metrics_, absl::Now,
                        [] { return uint64_t{1}; }}};
  const AccessControl access_control_{/*needs_credential=*/false};
  const CallAccess access_{{access_control_, metrics_, absl::Now, ""}};
  InferenceService inference_{{},
                              {served_.front(), admission_, worker_, observer_,
                               nullptr, metrics_, queue_, absl::Now, access_}};
  ModelService models_{{served_, observer_, access_, absl::Now}};
  UnknownMethods unknown_methods_{{observer_, access_, absl::Now}};
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::InferenceService::Stub> inference_stub_;
  std::unique_ptr<v1::ModelService::Stub> model_stub_;
};

TEST_F(TokenizingCallsTest, OtherCallsAreAnsweredWhileTextsAreEncoded) {
  std::thread stuck = StartTokenize();
  EXPECT_TRUE(GetModel().ok());
  tokenizer_.release.Set();
  stuck.join();
}

TEST_F(TokenizingCallsTest, ATokenizeCallIsCountedAsARequest) {
  tokenizer_.release.Set();
  EXPECT_TRUE(Tokenize().ok());
  const std::string line =
      "sparseserve_requests_finished_total{finish_reason=\"stop\","
      "model_name=\"\",operation=\"tokenize\"} 1";
  // The client may hear of the end before the count is made.
  while (metrics_.Serialize().find(line) == std::string::npos) {
    std::this_thread::yield();
  }
}

TEST_F(TokenizingCallsTest, TooManyWaitingTextsAreRefused) {
  std::thread stuck = StartTokenize();
  grpc::ClientContext waiting_context;
  std::thread waiting([&] {
    EXPECT_EQ(Generate(waiting_context).error_code(),
              grpc::StatusCode::CANCELLED);
  });
  while (worker_.waiting() == 0) std::this_thread::yield();
  for (const grpc::Status& status : {Tokenize(), [this] {
                                       grpc::ClientContext context;
                                       return Generate(context);
                                     }()}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(PartsOf(status).reason, "QUEUE_FULL");
  }
  waiting_context.TryCancel();
  waiting.join();
  tokenizer_.release.Set();
  stuck.join();
}

TEST_F(TokenizingCallsTest, ATextWhoseCallerLeftIsNotEncoded) {
  std::thread stuck = StartTokenize();
  grpc::ClientContext context;
  std::thread leaving([&] {
    EXPECT_EQ(Generate(context).error_code(), grpc::StatusCode::CANCELLED);
  });
  while (worker_.waiting() == 0) std::this_thread::yield();
  context.TryCancel();
  leaving.join();
  // The server has ended the call too, though its text still waits.
  while (metrics_.Serialize().find("grpc_status=\"CANCELLED\"") ==
         std::string::npos) {
    std::this_thread::yield();
  }
  tokenizer_.release.Set();
  stuck.join();
  worker_.Stop();
  EXPECT_EQ(tokenizer_.encodings, 1);
  EXPECT_EQ(queue_.waiting(), 0);
}

TEST_F(TokenizingCallsTest, ADrainingServerRefusesWithoutEncoding) {
  queue_.StartDraining();
  grpc::ClientContext context;
  EXPECT_EQ(PartsOf(Generate(context)).reason, "DRAINING");
  EXPECT_EQ(tokenizer_.encodings, 0);
}

}  // namespace
}  // namespace sparseserve
