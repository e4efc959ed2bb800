#include "server/rpc/call_observer.h"

#include <utility>

#include "server/rpc/response_conversion.h"
#include "server/rpc/status_details.h"

namespace sparseserve {

CallObserver::CallObserver(Dependencies dependencies)
    : d_(std::move(dependencies)) {}

void CallObserver::Started(const CallRecord& record) {
  d_.metrics.CallStarted(record.method);
  MutexLock lock(mu_);
  ++calls_;
}

void CallObserver::Finished(const CallRecord& record,
                            const absl::Status& status) {
  if (record.operation.has_value()) CountRequest(record, status);
  Finish(record, status, std::nullopt);
}

void CallObserver::Finished(const CallRecord& record,
                            const TokenStream::Summary& summary) {
  RequestLogEntry::Generation generation;
  generation.prompt_tokens = summary.prompt_tokens;
  generation.output_tokens = summary.output_tokens;
  generation.plan = record.plan;
  generation.pattern = record.pattern;
  if (summary.end.report.has_value()) {
    const FinishReport& report = *summary.end.report;
    generation.queue = report.queue;
    generation.time_to_first_token = report.time_to_first_token;
    generation.density =
        Density({report.prefill_blocks.computed + report.decode_blocks.computed,
                 report.prefill_blocks.allowed + report.decode_blocks.allowed});
  }
  Finish(record, summary.end.status, generation);
}

void CallObserver::CountRequest(const CallRecord& record,
                                const absl::Status& status) {
  if (status.ok() || absl::IsCancelled(status)) {
    d_.metrics.Answered(
        *record.operation,
        status.ok() ? FinishOutcome::kStop : FinishOutcome::kCancelled,
        d_.clock() - record.arrival);
  } else {
    d_.metrics.Rejected(RejectReasonOf(status));
  }
}

void CallObserver::WaitUntilIdle(absl::Time deadline) {
  MutexLock lock(mu_);
  while (calls_ > 0) {
    const absl::Duration left = deadline - d_.clock();
    if (left <= absl::ZeroDuration()) return;
    idle_.WaitFor(mu_, absl::ToChronoNanoseconds(left));
  }
}

void CallObserver::Finish(
    const CallRecord& record, const absl::Status& status,
    std::optional<RequestLogEntry::Generation> generation) {
  const absl::Duration total = d_.clock() - record.arrival;
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string reason = status.ok() ? "" : ReasonOf(status);
  d_.metrics.CallFinished(record.method, status.raw_code(), total);
  d_.log.Write({.time = d_.wall_clock(),
                .method = record.method,
                .request_id = record.request_id,
                .traceparent = record.traceparent,
                .event = record.is_audited ? "audit" : "call",
                .peer = record.peer,
                .caller = record.identity,
                .model = record.model,
                .code = code,
                .reason = reason,
                .total = total,
                .generation = generation});
  MutexLock lock(mu_);
  if (--calls_ == 0) idle_.NotifyAll();
}

}  // namespace sparseserve
