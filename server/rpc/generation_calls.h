#pragma once

#include <memory>

#include "grpcpp/alarm.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/call_record.h"
#include "server/rpc/load_reporter.h"
#include "server/rpc/served_model.h"
#include "server/rpc/token_stream.h"

namespace sparseserve {

// What both kinds of generating call share: the record, the output stream and
// the timer for readers that take nothing.
class GenerationCall : public TokenStream::Call {
 public:
  struct Dependencies {  // all outlive the call
    const ServedModel& model;
    CallObserver& observer;
    LoadReporter* load;  // null: calls end without a report
    TokenStream::Options stream_options;
    TokenStream::Dependencies stream_dependencies;
  };

  CallRecord& record() { return record_; }
  const std::shared_ptr<TokenStream>& stream() const { return stream_; }

  void Break() override;
  void StartTimer(absl::Duration delay) override;

 protected:
  GenerationCall(grpc::CallbackServerContext& context, CallRecord record,
                 const Dependencies& dependencies);
  // The status that the call ends with, having set its trailers.
  grpc::Status StatusOf(const TokenStream::End& end);
  // Tells the observer. The last thing before `delete this`.
  void Over();

  grpc::CallbackServerContext& context_;
  const ServedModel& model_;
  CallRecord record_;

 private:
  CallObserver& observer_;
  LoadReporter* const load_;
  const std::shared_ptr<TokenStream> stream_;
  std::unique_ptr<grpc::Alarm> alarm_;
};

// InferenceService.Generate. Deletes itself when gRPC is done with it.
class WholeCall final : public GenerationCall, public grpc::ServerUnaryReactor {
 public:
  // `response` lives as long as the call.
  WholeCall(grpc::CallbackServerContext& context, grpc::ByteBuffer& response,
            CallRecord record, const Dependencies& dependencies);

 private:
  void StartWrite(OutputPiece piece) override;
  void EndCall(OutputPiece rest, const TokenStream::End& end) override;
  void OnCancel() override { stream()->Cancelled(); }
  void OnDone() override;

  grpc::ByteBuffer& response_;
};

// InferenceService.StreamGenerate. Deletes itself when gRPC is done with it.
// Sends no initial metadata of its own: an error before the first output goes
// out as trailers only, which lets clients retry.
class StreamCall final : public GenerationCall,
                         public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  StreamCall(grpc::CallbackServerContext& context, CallRecord record,
             const Dependencies& dependencies);

 private:
  void StartWrite(OutputPiece piece) override;
  void EndCall(OutputPiece rest, const TokenStream::End& end) override;
  void OnWriteDone(bool ok) override { stream()->WriteDone(ok); }
  void OnCancel() override { stream()->Cancelled(); }
  void OnDone() override;

  grpc::ByteBuffer message_;  // being written
};

}  // namespace sparseserve
