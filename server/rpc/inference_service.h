#pragma once

#include <cstdint>
#include <functional>

#include "server/rpc/admission.h"
#include "server/rpc/call_access.h"
#include "server/rpc/explain_call.h"
#include "server/rpc/explanation.h"
#include "server/rpc/generation_calls.h"
#include "server/rpc/tokenize_call.h"
#include "sparseserve/v1/inference_service.grpc.pb.h"

namespace sparseserve {

// The gRPC face of InferenceService. Its methods take raw bytes, see
// message_parser.h.
class InferenceService final
    : public v1::InferenceService::WithRawCallbackMethod_Generate<
          v1::InferenceService::WithRawCallbackMethod_StreamGenerate<
              v1::InferenceService::WithRawCallbackMethod_Tokenize<
                  v1::InferenceService::WithRawCallbackMethod_Detokenize<
                      v1::InferenceService::
                          WithRawCallbackMethod_ExplainAttention<
                              v1::InferenceService::Service>>>>> {
 public:
  struct Dependencies {  // all outlive the service
    const ServedModel& model;
    Admission& admission;
    TokenizerWorker& worker;
    CallObserver& observer;
    LoadReporter* load;  // may be null, see GenerationCall
    Metrics& metrics;
    RequestQueue& queue;
    std::function<absl::Time()> clock;
    const CallAccess& access;
  };
  // `stream_options` but for what follows from the call.
  InferenceService(TokenStream::Options stream_options,
                   Dependencies dependencies);

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamGenerate(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ExplainAttention(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
      grpc::ByteBuffer* response) override;

 private:
  CallRecord NewRecord(const grpc::CallbackServerContext& context,
                       const char* method, Operation operation) const;
  // Parses, admits, or ends the call with what is wrong.
  template <typename Message>
  void Start(const grpc::CallbackServerContext& context,
             const grpc::ByteBuffer& bytes, GenerationCall& call);

  const Dependencies d_;
  const GenerationCall::Dependencies call_dependencies_;
  const TokenizeCall::Dependencies tokenize_dependencies_;
  ExplanationDesk desk_;
  const ExplainCall::Dependencies explain_dependencies_;
};

}  // namespace sparseserve
