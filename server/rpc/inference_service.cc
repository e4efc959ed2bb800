#include "server/rpc/inference_service.h"

#include <utility>

#include "server/rpc/incoming_call.h"
#include "server/rpc/method_names.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/response_conversion.h"
#include "server/rpc/status_details.h"
#include "server/rpc/unary_call.h"
#include "server/rpc/utf8_text.h"

namespace sparseserve {
InferenceService::InferenceService(TokenStream::Options stream_options,
                                   Dependencies dependencies)
    : d_(std::move(dependencies)),
      call_dependencies_{d_.model,
                         d_.observer,
                         d_.load,
                         std::move(stream_options),
                         {d_.queue, d_.metrics, d_.clock}},
      tokenize_dependencies_{d_.model, d_.worker, d_.observer, d_.metrics,
                             d_.clock},
      explain_dependencies_{call_dependencies_, d_.admission, desk_,
                            d_.worker} {}

grpc::ServerUnaryReactor* InferenceService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  auto* const call =
      new WholeCall(*context, *response,
                    NewRecord(*context, kGenerateMethod, Operation::kGenerate),
                    call_dependencies_);
  Start<v1::GenerateRequest>(*context, *request, *call);
  return call;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::StreamGenerate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  auto* const call = new StreamCall(
      *context,
      NewRecord(*context, kStreamGenerateMethod, Operation::kStreamGenerate),
      call_dependencies_);
  Start<v1::StreamGenerateRequest>(*context, *request, *call);
  return call;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  auto* const call = new TokenizeCall(
      *context, *response,
      NewRecord(*context, kTokenizeMethod, Operation::kTokenize),
      tokenize_dependencies_);
  call->Start(*request);
  return call;
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return AnswerCall<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      {*context, *request, *response,
       NewRecord(*context, kDetokenizeMethod, Operation::kDetokenize)},
      d_.observer,
      [this](const v1::DetokenizeRequest& message)
          -> absl::StatusOr<v1::DetokenizeResponse> {
        const absl::Time begin = d_.clock();
        const auto bytes = DecodeTokens(message, d_.model);
        if (!bytes.ok()) return bytes.status();
        v1::DetokenizeResponse answer;
        answer.set_text(ToUtf8(*bytes));
        d_.metrics.PhaseTime(RequestPhase::kDetokenize, d_.clock() - begin);
        return answer;
      });
}

grpc::ServerUnaryReactor* InferenceService::ExplainAttention(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  auto* const call =
      new ExplainCall(*context, *response,
                      NewRecord(*context, kExplainAttentionMethod,
                                Operation::kExplainAttention),
                      explain_dependencies_);
  call->Start(*request);
  return call;
}

CallRecord InferenceService::NewRecord(
    const grpc::CallbackServerContext& context, const char* method,
    Operation operation) const {
  CallRecord record = RecordOf(context, method, d_.clock());
  record.operation = operation;
  record.model = d_.model.name;
  record.access = d_.access.Check(context, record);
  return record;
}

template <typename Message>
void InferenceService::Start(const grpc::CallbackServerContext& context,
                             const grpc::ByteBuffer& bytes,
                             GenerationCall& call) {
  Message message;
  absl::Status status = call.record().access;
  if (status.ok()) status = ParseRequest(bytes, message);
  if (status.ok()) {
    status =
        SettleRequestId(context, message.options().request_id(), call.record());
  }
  if (status.ok()) status = SettleMetadataTarget(context, call.record());
  if (!status.ok()) return d_.admission.Refuse(status, *call.stream());
  d_.admission.Admit(std::move(*message.mutable_options()), call.record(),
                     call.stream());
}

}  // namespace sparseserve
