#include "server/rpc/tokenize_call.h"

#include <optional>
#include <utility>

#include "engine/base/status_macros.h"
#include "server/rpc/incoming_call.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/response_conversion.h"
#include "server/rpc/status_details.h"

namespace sparseserve {

TokenizeCall::TokenizeCall(grpc::CallbackServerContext& context,
                           grpc::ByteBuffer& response, CallRecord record,
                           const Dependencies& dependencies)
    : context_(context),
      response_(response),
      d_(dependencies),
      record_(std::move(record)) {
  d_.observer.Started(record_);
}

void TokenizeCall::Start(const grpc::ByteBuffer& request) {
  const absl::StatusOr<size_t> bytes = Parse(request);
  if (!bytes.ok()) return End(bytes.status());
  if (!d_.worker.Submit(*bytes, [this] { End(Answer()); })) {
    End(QueueFull(d_.worker.waiting(), std::nullopt));
  }
}

absl::StatusOr<size_t> TokenizeCall::Parse(const grpc::ByteBuffer& request) {
  RETURN_IF_ERROR(record_.access);
  RETURN_IF_ERROR(SettleRequestId(context_, "", record_));
  RETURN_IF_ERROR(ParseRequest(request, request_));
  return CheckInput(request_, d_.model);
}

absl::Status TokenizeCall::Answer() {
  if (cancelled_) return absl::CancelledError("the caller left");
  const absl::Time begin = d_.clock();
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens,
                   EncodeInput(request_, d_.model));
  d_.metrics.PhaseTime(RequestPhase::kTokenize, d_.clock() - begin);
  response_ = Serialize(ToTokenizeResponse(tokens, d_.model.tokenizer));
  return absl::OkStatus();
}

void TokenizeCall::End(const absl::Status& status) {
  status_ = status;
  Finish(EndStatus(status_, record_, context_));
}

void TokenizeCall::OnDone() {
  d_.observer.Finished(record_, status_);
  delete this;
}

}  // namespace sparseserve
