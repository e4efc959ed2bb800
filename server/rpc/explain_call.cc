#include "server/rpc/explain_call.h"

#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "server/rpc/incoming_call.h"
#include "server/rpc/response_conversion.h"

namespace sparseserve {

ExplainCall::ExplainCall(grpc::CallbackServerContext& context,
                         grpc::ByteBuffer& response, CallRecord record,
                         const Dependencies& dependencies)
    : GenerationCall(context, std::move(record), dependencies.generation),
      response_(response),
      d_(dependencies) {}

void ExplainCall::Start(const grpc::ByteBuffer& bytes) {
  v1::ExplainAttentionRequest request;
  absl::StatusOr<ExplanationOptions> options = Parse(bytes, request);
  if (!options.ok()) return d_.admission.Refuse(options.status(), *stream());
  d_.admission.Admit(
      OptionsOfRun(request.options()), record(), stream(),
      [&desk = d_.desk, &model = model_, measured = measured_,
       options = *std::move(options)](Request& prompt) -> absl::Status {
        ASSIGN_OR_RETURN(
            prompt.profile,
            desk.MakeProfile(options, static_cast<int>(prompt.prompt.size()),
                             model));
        measured->profile = prompt.profile;
        measured->prompt = prompt.prompt;
        return absl::OkStatus();
      });
}

absl::StatusOr<ExplanationOptions> ExplainCall::Parse(
    const grpc::ByteBuffer& bytes, v1::ExplainAttentionRequest& request) {
  RETURN_IF_ERROR(record().access);
  RETURN_IF_ERROR(ParseRequest(bytes, request));
  RETURN_IF_ERROR(
      SettleRequestId(context_, request.options().request_id(), record()));
  return CheckExplanation(request, model_);
}

void ExplainCall::StartWrite(OutputPiece) {
  SPARSESERVE_CHECK(false && "an explanation is not written in pieces");
}

void ExplainCall::EndCall(OutputPiece, const TokenStream::End& end) {
  if (!end.report.has_value()) {
    return Finish(EndStatus(end.status, record_, context_));
  }
  // Off the serving thread; where the worker has too much to do, one late turn
  // of the loop is better than an answer lost.
  const FinishReport report = *end.report;
  if (!d_.worker.Submit(0, [this, report] { Answer(report); })) Answer(report);
}

void ExplainCall::Answer(const FinishReport& report) {
  response_ = Serialize(ToExplanation(
      *measured_->profile, measured_->prompt,
      ToReport(report, record_.target, model_, record_.request_id),
      model_.tokenizer));
  // Before the caller has the answer: the next explanation may follow.
  measured_->profile.reset();
  Finish(EndStatus(absl::OkStatus(), record_, context_));
}

void ExplainCall::OnDone() {
  Over();
  delete this;
}

}  // namespace sparseserve
