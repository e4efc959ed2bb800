#include "client/generation_stream.h"

#include <utility>

#include "grpcpp/support/slice.h"

namespace sparseserve {
namespace {

constexpr char kMethod[] = "/sparseserve.v1.InferenceService/StreamGenerate";

}  // namespace

GenerationStream::GenerationStream(const v1::StreamGenerateRequest& request,
                                   const CallOptions& call, OnOutput on_output,
                                   OnEnd on_end)
    : on_output_(std::move(on_output)),
      on_end_(std::move(on_end)),
      call_(call) {
  const grpc::Slice bytes(request.SerializeAsString());
  request_ = grpc::ByteBuffer(&bytes, 1);
}

void GenerationStream::Start(grpc::GenericStub& stub,
                             grpc::CompletionQueue& queue,
                             const v1::StreamGenerateRequest& request,
                             const CallOptions& call, OnOutput on_output,
                             OnEnd on_end) {
  auto* stream = new GenerationStream(request, call, std::move(on_output),
                                      std::move(on_end));
  stream->stream_ = stub.PrepareCall(&stream->call_.context(), kMethod, &queue);
  stream->stream_->StartCall(stream);
}

bool GenerationStream::Proceed(bool ok) {
  switch (state_) {
    case State::kStarting:
      if (!ok) break;
      state_ = State::kSending;
      stream_->WriteLast(request_, grpc::WriteOptions(), this);
      return false;
    case State::kSending:
      if (!ok) break;
      request_.Clear();
      state_ = State::kReading;
      stream_->Read(&reply_, this);
      return false;
    case State::kReading:
      if (!ok) break;
      if (TakeMessage()) {
        stream_->Read(&reply_, this);
        return false;
      }
      unreadable_ = true;
      call_.context().TryCancel();
      break;
    case State::kFinishing:
      on_end_(Result());
      return true;
  }
  state_ = State::kFinishing;
  stream_->Finish(&status_, this);
  return false;
}

bool GenerationStream::TakeMessage() {
  grpc::Slice bytes;
  if (!reply_.DumpToSingleSlice(&bytes).ok() ||
      !message_.ParseFromArray(bytes.begin(), static_cast<int>(bytes.size()))) {
    return false;
  }
  if (message_.has_report()) {
    report_ = std::move(*message_.mutable_report());
  } else if (message_.has_output()) {
    on_output_(message_.output());
  }
  return true;
}

absl::StatusOr<v1::GenerationReport> GenerationStream::Result() {
  if (unreadable_) {
    return absl::InternalError("the server sent a message that is malformed");
  }
  absl::Status result = call_.Result(status_);
  if (!result.ok()) return result;
  if (!report_.has_value()) {
    return absl::InternalError("the stream ended without a report");
  }
  return *std::move(report_);
}

}  // namespace sparseserve
