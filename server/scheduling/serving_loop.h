#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "engine/kv/page_pool.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/load_gauge.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/scheduler.h"

namespace sparseserve {

// The one thread that owns the engine: takes requests from the queue, lets the
// scheduler compose steps, runs them, hands output to the sinks. Created and
// destroyed by main, whose thread calls Start(), Drain() and Stop().
//
// Every request that the queue accepted ends in exactly one TokenSink::Finish
// or Fail, and in one Metrics::Finished, one Cancelled if it was cancelled, and
// one TargetOutcome for each target that it named and whose outcome is known;
// or, if the scheduler refused it, in one Metrics::Rejected, and a missed
// TargetOutcome for each target that passed while it waited. Its pages are
// free, and the metrics say so, before its sink hears of the end. Other
// rejections and calls are the rpc side's to count.
class ServingLoop {
 public:
  struct Dependencies {  // all outlive the loop
    RequestQueue& queue;
    StepExecutor& executor;
    Scheduler& scheduler;
    Metrics& metrics;
    LoadGauge& load;
    std::function<absl::Time()> clock;
    // Called once, on the loop's thread, if the device failed for good: every
    // request has been failed. main turns health to NOT_SERVING and exits.
    std::function<void(const absl::Status&)> on_device_failure;
  };
  explicit ServingLoop(Dependencies dependencies);
  ~ServingLoop();  // Stop()s

  void Start();
  // Finishes what is queued and running until `deadline`, then cancels the rest
  // with UNAVAILABLE / "DRAINING". The queue must already be draining. Blocks
  // until the loop is idle and its thread has ended.
  void Drain(absl::Time deadline);
  // Sets the queue draining, cancels everything with UNAVAILABLE / "DRAINING"
  // and joins the thread. Idempotent.
  void Stop();

  // Has what is kept for prompts that begin alike forgotten, in the loop's next
  // turn. Tells `done` on the loop's thread how many pages that were, or at
  // once, or when the loop ends, UNAVAILABLE. `done` must not block. Any
  // thread.
  using Flushed = std::function<void(absl::StatusOr<int> pages)>;
  void FlushPrefixCache(Flushed done);

  // Time of the loop's last turn, for liveness. Any thread.
  absl::Time last_turn() const;

 private:
  void Run();
  // Answers what asked for the prefix cache to be flushed.
  void Flush();
  void EndFlushes();
  // False if the device failed.
  bool RunStep(const StepPlan& plan, absl::Time begin);
  void FailDevice(const absl::Status& status);
  // Records and tells the end of every sequence that ended.
  void ReportEnded();
  void RecordEnding(const Sequence& sequence);
  void PublishGauges();

  const Dependencies d_;
  std::atomic<int64_t> last_turn_ns_{0};
  std::atomic<int64_t> drain_deadline_ns_{0};
  std::atomic<bool> draining_{false};  // the deadline counts
  std::atomic<bool> stop_{false};
  std::thread thread_;
  Mutex mu_;
  std::vector<Flushed> flushes_ ABSL_GUARDED_BY(mu_);
  bool takes_flushes_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sparseserve
