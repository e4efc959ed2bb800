#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/step.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/sequence.h"
#include "server/simulation/cost_model_executor.h"
#include "server/simulation/placeholder_tokenizer.h"

namespace sparseserve {

// One server in virtual time: its queue, its scheduler, and a device that says
// how long steps take. It turns as ServingLoop does, but a turn is cut where
// the step runs, so that others' events can come meanwhile. One thread.
class Replica {
 public:
  struct Options {
    Scheduler::Options scheduler;
    RequestQueue::Options queue;
    CostModelExecutor::Options device;
  };
  // Hears of each accepted request once, when it has ended.
  using OnEnded = std::function<void(const Sequence&)>;
  // As Scheduler::Create().
  static absl::StatusOr<std::unique_ptr<Replica>> Create(const Options& options,
                                                         OnEnded on_ended);

  // Of a request whose prompt and output are longer nothing can come.
  int max_request_tokens() const { return scheduler_->max_request_tokens(); }
  // Takes `request` as RequestQueue::Push() does, and begins a step with it if
  // none runs.
  Refusal Push(std::unique_ptr<Request> request, absl::Time now);

  // When the step that runs ends; the infinite future if none does.
  absl::Time step_end() const { return step_end_; }
  // Ends the step that runs and begins the next. REQUIRES: one runs.
  void EndStep();

  // What a picker sees: requests that wait, stopped ones too, and that run.
  int waiting() const { return queue_.waiting() + scheduler_->preempted(); }
  int running() const { return scheduler_->running(); }
  double kv_usage() const;
  double utilization() const;  // ApplicationUtilization()

  // What it did so far.
  struct Work {
    int64_t requests = 0;  // accepted
    int64_t ended = 0;
    int64_t steps = 0;
    int64_t rows = 0;  // tokens computed
    int64_t preemptions = 0;
    int64_t preempted_tokens = 0;  // whose keys and values were given up
    absl::Duration busy = absl::ZeroDuration();  // steps that have ended
    double peak_kv_usage = 0;
    int peak_waiting = 0;
  };
  Work work() const;

 private:
  Replica(const Options& options, OnEnded on_ended);

  void BeginStep(absl::Time now);
  void ReportEnded(absl::Time now);

  const Options options_;
  const OnEnded on_ended_;
  const PlaceholderTokenizer tokenizer_;
  RequestQueue queue_;
  CostModelExecutor executor_;
  std::unique_ptr<Scheduler> scheduler_;
  StepResult result_;  // of the step that runs
  absl::Time step_begin_;
  absl::Time step_end_ = absl::InfiniteFuture();
  Work work_;
  int64_t turns_ = 0;
};

}  // namespace sparseserve
