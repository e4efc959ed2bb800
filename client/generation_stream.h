#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/call_options.h"
#include "client/client_call.h"
#include "client/running_streams.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/client_callback.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// One StreamGenerate call on gRPC's callback threads. Owns itself: it deletes
// itself after its last callback. Messages are read as bytes, for a generated
// stub does not tell one that cannot be parsed from the end of the stream.
class GenerationStream
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  using OnOutput = std::function<void(const v1::OutputDelta&)>;
  using OnEnd = std::function<void(absl::StatusOr<v1::GenerationReport>)>;

  // Starts the call, which counts in `running`, kept for as long.
  // REQUIRES: ValidateCallOptions(call) is OK.
  static void Start(grpc::GenericStub& stub, RunningStreams& running,
                    const v1::StreamGenerateRequest& request,
                    const CallOptions& call, OnOutput on_output, OnEnd on_end);

 private:
  GenerationStream(RunningStreams& running,
                   const v1::StreamGenerateRequest& request,
                   const CallOptions& call, OnOutput on_output, OnEnd on_end);

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  absl::StatusOr<v1::GenerationReport> Result(const grpc::Status& status);

  RunningStreams& running_;
  const OnOutput on_output_;
  const OnEnd on_end_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer reply_;
  v1::StreamGenerateResponse message_;
  std::optional<v1::GenerationReport> report_;
  bool unreadable_ = false;
  // Last: a stop may come as soon as it is there.
  ClientCall call_;
};

}  // namespace sparseserve
