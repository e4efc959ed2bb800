#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/clock.h"
#include "engine/base/mutex.h"
#include "gtest/gtest.h"
#include "server/rpc/health_server.h"
#include "server/server.h"
#include "sparseserve/v1/inference_service.pb.h"
#include "tests/server/rpc/status_parts.h"
#include "tests/server/rpc/test_call.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/step_gate.h"

namespace sparseserve::testing {

inline constexpr char kGeneratePath[] =
    "/sparseserve.v1.InferenceService/Generate";
inline constexpr char kStreamGeneratePath[] =
    "/sparseserve.v1.InferenceService/StreamGenerate";

// What one stream brought.
struct StreamedAnswer {
  std::string text;
  std::vector<TokenId> token_ids;
  std::optional<v1::GenerationReport> report;
  StatusParts status;
};

// The whole server in this process, on a model that costs nothing. Checks at
// the end that nothing is left behind.
class ServerFixture : public ::testing::Test {
 protected:
  ServerFixture();
  ~ServerFixture() override;

  // To change before Start().
  FakeEngine::Options engine_options_;
  ServerSettings settings_;
  std::function<void(FakeExecutor&)> prepare_;
  std::function<absl::Time()> wall_clock_ = absl::Now;
  bool explains_ = false;
  TestChannel::Options channel_options_;
  std::function<void(Server::Options&)> prepare_server_;
  std::unique_ptr<HealthServer> health_;  // may be null
  // Steps wait here if `gated_`.
  bool gated_ = false;

  void Start();
  Server& server() { return *server_; }
  TestChannel& channel() { return *channel_; }
  StepGate& gate() { return gate_; }

  // Reads `call` to its end.
  StreamedAnswer ReadAll(TestCall& call);
  StreamedAnswer Stream(const v1::GenerateOptions& options);
  // How a call that has no answer of interest ends.
  StatusParts StatusOf(const std::string& path,
                       const google::protobuf::Message& request);

  std::optional<double> Series(const std::string& name,
                               std::initializer_list<std::string> labels = {});
  // Polls until the series has `value`.
  void WaitForSeries(const std::string& name,
                     std::initializer_list<std::string> labels, double value);
  std::string Log();

  // What Server told of a failed device; waits for it.
  absl::Status DeviceFailure();

 private:
  StepGate gate_;
  std::FILE* log_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<TestChannel> channel_;
  FakeExecutor* executor_ = nullptr;
  Mutex mu_;
  CondVar failed_;
  std::optional<absl::Status> failure_ ABSL_GUARDED_BY(mu_);
};

// Options with a prompt of text, greedy or not, of at most `tokens` tokens.
v1::GenerateOptions TextOptions(const std::string& text, int tokens);

v1::GenerateRequest WholeRequest(const v1::GenerateOptions& options);
std::string StreamRequest(const v1::GenerateOptions& options);  // as bytes

}  // namespace sparseserve::testing
