#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "server/scheduling/request.h"

namespace sparseserve {

// Why a request was not taken.
enum class Refusal { kNone, kQueueFull, kDraining };

// Requests on their way from gRPC threads to the serving thread; first come,
// first served. Thread-safe. Bounded in requests and in prompt tokens, counting
// what waits here and what the scheduler still holds waiting.
class RequestQueue {
 public:
  struct Options {  // each at least 1
    int max_requests = 256;
    int64_t max_tokens = 1'000'000;
  };
  explicit RequestQueue(Options options);

  // Never blocks. Takes `request` iff it returns kNone. Where nothing waits,
  // one request is taken whatever its length.
  Refusal Push(std::unique_ptr<Request>& request);

  // What Push() would answer now, whatever the request: spares work on what
  // will be refused. It may have changed by the time of Push().
  Refusal WouldRefuse() const;

  // Everything that has arrived since the last call, in order; empty if none.
  // The caller tells through Started() when a request stops waiting (it began
  // to run or was dropped): it counts against the bounds until then.
  std::vector<std::unique_ptr<Request>> TakeAll();
  void Started(const Request& request);

  // Blocks until something arrived, Wake() or `timeout`; may return early.
  void WaitForWork(absl::Duration timeout);
  // Wakes WaitForWork(): a request was cancelled, or shutdown.
  void Wake();

  // From now on Push() answers kDraining.
  void StartDraining();

  int waiting() const;  // requests counted against the bound

 private:
  const Options options_;
  mutable Mutex mu_;
  CondVar arrived_;
  std::vector<std::unique_ptr<Request>> incoming_ ABSL_GUARDED_BY(mu_);
  int waiting_requests_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t waiting_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sparseserve
