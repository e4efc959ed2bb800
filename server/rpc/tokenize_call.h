#pragma once

#include <atomic>
#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/call_record.h"
#include "server/rpc/served_model.h"
#include "server/rpc/tokenizer_worker.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// InferenceService.Tokenize. Deletes itself when gRPC is done with it, which is
// not before the worker has come to its job.
class TokenizeCall final : public grpc::ServerUnaryReactor {
 public:
  struct Dependencies {  // all outlive the call
    const ServedModel& model;
    TokenizerWorker& worker;
    CallObserver& observer;
    Metrics& metrics;
    std::function<absl::Time()> clock;
  };
  // `response` lives as long as the call.
  TokenizeCall(grpc::CallbackServerContext& context, grpc::ByteBuffer& response,
               CallRecord record, const Dependencies& dependencies);

  // Has the worker answer, or ends the call with what is wrong. Once.
  void Start(const grpc::ByteBuffer& request);

 private:
  absl::StatusOr<size_t> Parse(const grpc::ByteBuffer& request);
  absl::Status Answer();
  void End(const absl::Status& status);
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override;

  grpc::CallbackServerContext& context_;
  grpc::ByteBuffer& response_;
  const Dependencies d_;
  CallRecord record_;
  v1::TokenizeRequest request_;
  absl::Status status_;  // at the end
  std::atomic<bool> cancelled_{false};
};

}  // namespace sparseserve
