#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/statusor.h"
#include "client/call_options.h"
#include "grpcpp/channel.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// The StreamGenerate calls of a client that run beside their callers, all on
// one thread, which starts with the first of them.
//
// It is a thread of our own because gRPC's callback API polls for a second at a
// time and then sleeps for a tenth, so that a token after a second of silence
// may come 100 ms late; and because the last to let go of a channel must not be
// one of gRPC's threads, which the channel joins. Thread-safe.
class GenerationStreams {
 public:
  using OnOutput = std::function<void(const v1::OutputDelta&)>;
  using OnEnd = std::function<void(absl::StatusOr<v1::GenerationReport>)>;

  explicit GenerationStreams(const std::shared_ptr<grpc::Channel>& channel);

  // Waits for the calls. None of their functions may run it.
  ~GenerationStreams();

  GenerationStreams(const GenerationStreams&) = delete;
  GenerationStreams& operator=(const GenerationStreams&) = delete;

  // Returns at once. REQUIRES: ValidateCallOptions(call) is OK.
  void Start(const v1::StreamGenerateRequest& request, const CallOptions& call,
             OnOutput on_output, OnEnd on_end);

 private:
  void Run();

  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;

  std::mutex mu_;
  std::condition_variable none_;
  int running_ = 0;     // under mu_
  std::thread thread_;  // under mu_
};

}  // namespace sparseserve
