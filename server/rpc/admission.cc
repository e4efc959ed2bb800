#include "server/rpc/admission.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/request_conversion.h"
#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

absl::Status StatusOf(Refusal refusal, const Request& request,
                      const RequestQueue& queue, absl::Time now) {
  switch (refusal) {
    case Refusal::kNone:
      return absl::OkStatus();
    case Refusal::kQueueFull:
      return QueueFull(queue.waiting(), queue.RetryAfter(now));
    case Refusal::kQuota:
      return QuotaExceeded(request.caller);
    case Refusal::kDraining:
      return Draining();
  }
  SPARSESERVE_CHECK(false && "unknown refusal");
}

// What follows from who calls, where the request does not say it.
void ApplyIdentity(const CallRecord& record, Request& request) {
  if (!request.cache_salt.empty()) {
    // No salt that a caller gives is one that follows from an identity.
    request.cache_salt.insert(0, "salt:");
  } else if (!record.identity.empty()) {
    request.cache_salt = StrCat("caller:", record.identity);
  }
  if (record.rule == nullptr) return;
  request.quota = record.rule->quota;
  if (request.priority == 0) {
    request.priority = record.rule->default_priority.value_or(0);
  }
  request.priority = std::min(request.priority, record.rule->max_priority);
}

}  // namespace

Admission::Admission(Options options, Dependencies dependencies)
    : options_(std::move(options)), d_(std::move(dependencies)) {}

void Admission::Admit(v1::GenerateOptions options, CallRecord& record,
                      std::shared_ptr<TokenStream> stream,
                      Completion complete) {
  absl::StatusOr<std::unique_ptr<Request>> request = Convert(options, record);
  if (!request.ok()) return Refuse(request.status(), *stream);
  const absl::StatusOr<size_t> bytes = PromptBytes(options, d_.model);
  if (!bytes.ok()) return Refuse(bytes.status(), *stream);
  const auto pending = std::make_shared<Pending>();
  pending->options = std::move(options);
  pending->request = *std::move(request);
  pending->request->cancelled = stream->cancelled();
  pending->stream = std::move(stream);
  pending->complete = std::move(complete);
  if (*bytes == 0) return Complete(*pending);
  if (!d_.worker.Submit(*bytes, [this, pending] { Complete(*pending); })) {
    Refuse(QueueFull(d_.worker.waiting(), d_.queue.RetryAfter(d_.clock())),
           *pending->stream);
  }
}

void Admission::Refuse(const absl::Status& status, TokenStream& stream) {
  d_.metrics.Rejected(RejectReasonOf(status));
  stream.Refuse(status);
}

absl::StatusOr<std::unique_ptr<Request>> Admission::Convert(
    const v1::GenerateOptions& options, CallRecord& record) const {
  record.model = d_.model.name;
  ASSIGN_OR_RETURN(std::unique_ptr<Request> request,
                   ConvertOptions(options, d_.model, d_.draw_seed));
  request->caller = record.caller;
  ApplyIdentity(record, *request);
  RETURN_IF_ERROR(
      StatusOf(WouldRefuse(*request), *request, d_.queue, d_.clock()));
  request->id = record.request_id;
  request->operation = *record.operation;
  // An explanation has no target of its own, so none is meant for it.
  const bool explains = request->operation == Operation::kExplainAttention;
  if (!explains && record.rule != nullptr && !request->target.is_named() &&
      !record.metadata_target.is_named()) {
    request->target = record.rule->default_target;
  }
  request->target =
      SettleTarget(request->target, record.metadata_target,
                   explains ? DefaultTargets() : options_.default_targets,
                   request->priority);
  request->arrival = record.arrival;
  request->deadline = record.deadline == absl::InfiniteFuture()
                          ? record.arrival + options_.default_deadline
                          : record.deadline;
  if (DrawsRecall(*request)) {
    request->measured =
        FollowedHeadsOf(request->attention.choice, d_.model.info);
  }
  record.target = request->target;
  record.plan = request->attention.plan;
  record.pattern = ChoiceName(request->attention.choice);
  return request;
}

Refusal Admission::WouldRefuse(const Request& request) const {
  // Whatever its text, it has a token.
  return d_.queue.WouldRefuse(
      request.caller, int64_t{request.max_output_tokens} + 1, request.quota);
}

bool Admission::DrawsRecall(const Request& request) const {
  // An explanation measures all of its prompt.
  if (options_.recall_sample_share == 0 ||
      request.operation == Operation::kExplainAttention) {
    return false;
  }
  const size_t dense = PatternSpec(DensePattern()).index();
  const int all = d_.model.info.layers * d_.model.info.kv_heads;
  if (request.attention.ruled_heads[dense] == all) return false;
  const double draw = std::ldexp(static_cast<double>(d_.draw_seed()), -64);
  return draw < options_.recall_sample_share;
}

void Admission::Complete(Pending& pending) {
  // The caller has its answer; nobody reads another.
  if (pending.request->cancelled->load()) return;
  const std::shared_ptr<TokenStream> stream = pending.stream;
  const absl::Status status = EncodeAndPush(pending);
  if (!status.ok()) Refuse(status, *stream);
}

absl::Status Admission::EncodeAndPush(Pending& pending) {
  // Again, for much can have changed while the text waited.
  const absl::Time begin = d_.clock();
  RETURN_IF_ERROR(StatusOf(WouldRefuse(*pending.request), *pending.request,
                           d_.queue, begin));
  ASSIGN_OR_RETURN(std::vector<TokenId> prompt,
                   EncodePrompt(pending.options, d_.model));
  d_.metrics.PhaseTime(RequestPhase::kTokenize, d_.clock() - begin);
  std::unique_ptr<Request>& request = pending.request;
  RETURN_IF_ERROR(SetPrompt(std::move(prompt), d_.model, *request));
  if (pending.complete) RETURN_IF_ERROR(pending.complete(*request));
  pending.stream->SetPromptTokens(static_cast<int>(request->prompt.size()));
  request->sink = std::move(pending.stream);
  const Refusal refusal = d_.queue.Push(request);
  if (refusal == Refusal::kNone) return absl::OkStatus();
  // It was not taken, so it is still here.
  return StatusOf(refusal, *request, d_.queue, d_.clock());
}

}  // namespace sparseserve
