#include "server/rpc/admission.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/request_conversion.h"
#include "server/rpc/status_details.h"

namespace sparseserve {

Admission::Admission(Options options, Dependencies dependencies)
    : options_(options), d_(std::move(dependencies)) {}

absl::Status Admission::Admit(const v1::GenerateOptions& options,
                              CallRecord& record,
                              std::shared_ptr<TokenStream> stream) {
  ASSIGN_OR_RETURN(std::unique_ptr<Request> request, Convert(options, record));
  request->cancelled = stream->cancelled();
  request->sink = std::move(stream);
  switch (d_.queue.Push(request)) {
    case Refusal::kNone:
      return absl::OkStatus();
    case Refusal::kQueueFull:
      return QueueFull(d_.queue.waiting());
    case Refusal::kDraining:
      return Draining();
  }
  return absl::InternalError("unknown refusal");
}

absl::StatusOr<std::unique_ptr<Request>> Admission::Convert(
    const v1::GenerateOptions& options, CallRecord& record) const {
  record.model = d_.model.name;
  ASSIGN_OR_RETURN(std::unique_ptr<Request> request,
                   ConvertOptions(options, d_.model, d_.draw_seed));
  const absl::Time begin = d_.clock();
  ASSIGN_OR_RETURN(std::vector<TokenId> prompt,
                   EncodePrompt(options, d_.model));
  d_.metrics.PhaseTime(RequestPhase::kTokenize, d_.clock() - begin);
  RETURN_IF_ERROR(SetPrompt(std::move(prompt), d_.model, *request));

  request->id = record.request_id;
  request->operation = record.operation;
  request->arrival = record.arrival;
  request->deadline = record.deadline == absl::InfiniteFuture()
                          ? record.arrival + options_.default_deadline
                          : record.deadline;
  record.prompt_tokens = static_cast<int>(request->prompt.size());
  record.target = request->target;
  return request;
}

}  // namespace sparseserve
