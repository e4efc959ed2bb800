#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/kv/page_pool.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/scheduler.h"

namespace sparseserve {

// The one thread that owns the engine: takes requests from the queue, lets the
// scheduler compose steps, runs them, hands output to the sinks. Created and
// destroyed by main.
class ServingLoop {
 public:
  struct Dependencies {  // all outlive the loop
    RequestQueue& queue;
    StepExecutor& executor;
    Scheduler& scheduler;
    Metrics& metrics;
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
  // until the loop is idle; then the thread ends.
  void Drain(absl::Time deadline);
  // Cancels everything and joins the thread. Idempotent.
  void Stop();

  // Time of the loop's last turn, for liveness. Any thread.
  absl::Time last_turn() const;

 private:
  void Run();

  Dependencies d_;
  std::atomic<int64_t> last_turn_ns_{0};
  std::atomic<int64_t> drain_deadline_ns_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace sparseserve
