#include "client/generation_stream.h"

#include <utility>

#include "grpcpp/support/slice.h"
#include "grpcpp/support/stub_options.h"

namespace sparseserve {
namespace {

constexpr char kMethod[] = "/sparseserve.v1.InferenceService/StreamGenerate";

}  // namespace

GenerationStream::GenerationStream(RunningStreams& running,
                                   const v1::StreamGenerateRequest& request,
                                   const CallOptions& call, OnOutput on_output,
                                   OnEnd on_end)
    : running_(running),
      on_output_(std::move(on_output)),
      on_end_(std::move(on_end)),
      call_(call) {
  const grpc::Slice bytes(request.SerializeAsString());
  request_ = grpc::ByteBuffer(&bytes, 1);
}

void GenerationStream::Start(grpc::GenericStub& stub, RunningStreams& running,
                             const v1::StreamGenerateRequest& request,
                             const CallOptions& call, OnOutput on_output,
                             OnEnd on_end) {
  auto* stream = new GenerationStream(running, request, call,
                                      std::move(on_output), std::move(on_end));
  running.Begin();
  stub.PrepareBidiStreamingCall(&stream->call_.context(), kMethod,
                                grpc::StubOptions(), stream);
  stream->StartWriteLast(&stream->request_, grpc::WriteOptions());
  stream->StartRead(&stream->reply_);
  stream->StartCall();
}

void GenerationStream::OnReadDone(bool ok) {
  if (!ok) return;
  grpc::Slice bytes;
  if (!reply_.DumpToSingleSlice(&bytes).ok() ||
      !message_.ParseFromArray(bytes.begin(), static_cast<int>(bytes.size()))) {
    unreadable_ = true;
    call_.context().TryCancel();
    return;
  }
  if (message_.has_report()) {
    report_ = std::move(*message_.mutable_report());
  } else if (message_.has_output()) {
    on_output_(message_.output());
  }
  StartRead(&reply_);
}

absl::StatusOr<v1::GenerationReport> GenerationStream::Result(
    const grpc::Status& status) {
  if (unreadable_) {
    return absl::InternalError("the server sent a message that is malformed");
  }
  absl::Status result = call_.Result(status);
  if (!result.ok()) return result;
  if (!report_.has_value()) {
    return absl::InternalError("the stream ended without a report");
  }
  return *std::move(report_);
}

void GenerationStream::OnDone(const grpc::Status& status) {
  on_end_(Result(status));
  RunningStreams& running = running_;
  delete this;
  running.End();
}

}  // namespace sparseserve
