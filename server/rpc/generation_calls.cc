#include "server/rpc/generation_calls.h"

#include <chrono>
#include <utility>

#include "engine/base/check.h"
#include "server/rpc/incoming_call.h"
#include "server/rpc/response_conversion.h"

namespace sparseserve {
namespace {

TokenStream::Options StreamOptions(TokenStream::Options options, bool deliver,
                                   const CallRecord& record) {
  options.deliver = deliver;
  options.method = record.method;
  options.deadline = record.deadline;
  return options;
}

// Whether another server might have done better: what a load report calls an
// error.
bool IsOurs(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsInternal(status) ||
         absl::IsDeadlineExceeded(status);
}

}  // namespace

GenerationCall::GenerationCall(grpc::CallbackServerContext& context,
                               CallRecord record,
                               const Dependencies& dependencies)
    : context_(context),
      model_(dependencies.model),
      record_(std::move(record)),
      observer_(dependencies.observer),
      load_(dependencies.load),
      stream_(std::make_shared<TokenStream>(
          StreamOptions(dependencies.stream_options,
                        record_.operation == Operation::kStreamGenerate,
                        record_),
          dependencies.stream_dependencies, *this)) {
  observer_.Started(record_);
}

void GenerationCall::Break() { context_.TryCancel(); }

void GenerationCall::StartTimer(absl::Duration delay) {
  // The callback may come late, when this call is gone; the stream, which
  // knows, may be gone as well.
  std::weak_ptr<TokenStream> stream = stream_;
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(
      std::chrono::system_clock::now() + absl::ToChronoMilliseconds(delay),
      [stream](bool expired) {
        const auto held = stream.lock();
        if (expired && held != nullptr) held->ReaderTimedOut();
      });
}

grpc::Status GenerationCall::StatusOf(const TokenStream::End& end) {
  if (load_ != nullptr) {
    const FinishReport report = end.report.value_or(FinishReport());
    context_.AddTrailingMetadata(
        kLoadTrailer, load_->Ended(IsOurs(end.status), report.prompt_tokens,
                                   report.output_tokens));
  }
  return EndStatus(end.status, record_, context_);
}

void GenerationCall::Over() { observer_.Finished(record_, stream_->Done()); }

WholeCall::WholeCall(grpc::CallbackServerContext& context,
                     grpc::ByteBuffer& response, CallRecord record,
                     const Dependencies& dependencies)
    : GenerationCall(context, std::move(record), dependencies),
      response_(response) {}

void WholeCall::StartWrite(OutputPiece) {
  SPARSESERVE_CHECK(false && "a whole answer is not written in pieces");
}

void WholeCall::EndCall(OutputPiece rest, const TokenStream::End& end) {
  if (end.report.has_value()) {
    response_ = Serialize(ToGenerateResponse(
        rest, ToReport(*end.report, record_.target, model_, record_.request_id),
        model_.tokenizer));
  }
  Finish(StatusOf(end));
}

void WholeCall::OnDone() {
  Over();
  delete this;
}

StreamCall::StreamCall(grpc::CallbackServerContext& context, CallRecord record,
                       const Dependencies& dependencies)
    : GenerationCall(context, std::move(record), dependencies) {}

void StreamCall::StartWrite(OutputPiece piece) {
  v1::StreamGenerateResponse response;
  *response.mutable_output() = ToOutputDelta(piece, model_.tokenizer);
  message_ = Serialize(response);
  grpc::ServerWriteReactor<grpc::ByteBuffer>::StartWrite(&message_);
}

void StreamCall::EndCall(OutputPiece, const TokenStream::End& end) {
  grpc::Status status = StatusOf(end);
  if (!end.report.has_value()) {
    Finish(std::move(status));
    return;
  }
  v1::StreamGenerateResponse response;
  *response.mutable_report() =
      ToReport(*end.report, record_.target, model_, record_.request_id);
  message_ = Serialize(response);
  StartWriteAndFinish(&message_, grpc::WriteOptions(), std::move(status));
}

void StreamCall::OnDone() {
  Over();
  delete this;
}

}  // namespace sparseserve
