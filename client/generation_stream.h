#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "client/call_options.h"
#include "client/client_call.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// One StreamGenerate call, whose operations, one at a time, come out of a
// completion queue with the stream as their tag. Messages are read as bytes,
// for a generated stub does not tell one that cannot be parsed from the end of
// the stream.
class GenerationStream {
 public:
  using OnOutput = std::function<void(const v1::OutputDelta&)>;
  using OnEnd = std::function<void(absl::StatusOr<v1::GenerationReport>)>;

  // Starts a call that whoever reads `queue` deletes.
  // REQUIRES: ValidateCallOptions(call) is OK.
  static void Start(grpc::GenericStub& stub, grpc::CompletionQueue& queue,
                    const v1::StreamGenerateRequest& request,
                    const CallOptions& call, OnOutput on_output, OnEnd on_end);

  // Goes on after an operation, which succeeded if `ok`. True once the end was
  // told: nothing more comes then.
  bool Proceed(bool ok);

 private:
  enum class State { kStarting, kSending, kReading, kFinishing };

  GenerationStream(const v1::StreamGenerateRequest& request,
                   const CallOptions& call, OnOutput on_output, OnEnd on_end);

  // Takes what was read; false if it cannot be parsed.
  bool TakeMessage();
  absl::StatusOr<v1::GenerationReport> Result();

  const OnOutput on_output_;
  const OnEnd on_end_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer reply_;
  v1::StreamGenerateResponse message_;
  std::optional<v1::GenerationReport> report_;
  grpc::Status status_;
  State state_ = State::kStarting;
  bool unreadable_ = false;
  // A stop may come as soon as it is there.
  ClientCall call_;
  // Last: uses the call's context.
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
};

}  // namespace sparseserve
