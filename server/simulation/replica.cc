#include "server/simulation/replica.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "server/scheduling/application_utilization.h"

namespace sparseserve {

absl::StatusOr<std::unique_ptr<Replica>> Replica::Create(const Options& options,
                                                         OnEnded on_ended) {
  std::unique_ptr<Replica> replica(new Replica(options, std::move(on_ended)));
  ASSIGN_OR_RETURN(replica->scheduler_,
                   Scheduler::Create(options.scheduler, replica->tokenizer_));
  return replica;
}

Replica::Replica(const Options& options, OnEnded on_ended)
    : options_(options),
      on_ended_(std::move(on_ended)),
      queue_(options.queue),
      executor_(options.device) {}

Refusal Replica::Push(std::unique_ptr<Request> request, absl::Time now) {
  const Refusal refusal = queue_.Push(request);
  if (refusal != Refusal::kNone) return refusal;
  ++work_.requests;
  work_.peak_waiting = std::max(work_.peak_waiting, waiting());
  if (step_end_ == absl::InfiniteFuture()) BeginStep(now);
  return refusal;
}

void Replica::BeginStep(absl::Time now) {
  scheduler_->Admit(queue_.TakeAll(), now);
  scheduler_->Sweep(now);
  ReportEnded(now);
  const StepPlan plan = scheduler_->PlanStep(now);
  for (const Request* request : scheduler_->started()) {
    queue_.Started(*request, now);
  }
  for (const int tokens : scheduler_->preempted_tokens()) {
    ++work_.preemptions;
    work_.preempted_tokens += tokens;
  }
  work_.peak_kv_usage = std::max(work_.peak_kv_usage, kv_usage());
  // Looking at every page takes a hundred times as long as the turn.
  ++turns_;
  SPARSESERVE_DCHECK(turns_ % 256 != 0 || scheduler_->CheckInvariants().ok());
  if (plan.slices.empty()) {
    ReportEnded(now);  // what was refused while the step was planned
    SPARSESERVE_CHECK(scheduler_->idle());
    step_end_ = absl::InfiniteFuture();
    return;
  }
  result_ = *executor_.Step(plan);
  step_begin_ = now;
  step_end_ = now + executor_.duration();
}

void Replica::EndStep() {
  const absl::Time now = step_end_;
  SPARSESERVE_CHECK(now < absl::InfiniteFuture());
  work_.busy += now - step_begin_;
  scheduler_->Commit(result_, now);
  ReportEnded(now);
  BeginStep(now);
}

void Replica::ReportEnded(absl::Time now) {
  for (const auto& sequence : scheduler_->TakeEnded()) {
    if (sequence->progress() == Progress::kWaiting) {
      queue_.Started(sequence->request(), now);
    }
    queue_.Finished(sequence->request());
    ++work_.ended;
    on_ended_(*sequence);
  }
}

double Replica::kv_usage() const {
  const PagePool& pages = scheduler_->pages();
  return static_cast<double>(pages.leased()) / pages.total();
}

double Replica::utilization() const {
  return ApplicationUtilization(
      kv_usage(),
      static_cast<double>(running()) / options_.scheduler.max_running_sequences,
      static_cast<double>(waiting()) / options_.queue.max_requests);
}

Replica::Work Replica::work() const {
  Work work = work_;
  work.steps = executor_.steps();
  work.rows = executor_.rows();
  return work;
}

}  // namespace sparseserve
