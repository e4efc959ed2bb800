#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "server/scheduling/caller_quotas.h"
#include "server/scheduling/drain_rate.h"
#include "server/scheduling/request.h"

namespace sparseserve {

// Why a request was not taken.
enum class Refusal { kNone, kQueueFull, kQuota, kDraining };

// Requests on their way from gRPC threads to the serving thread; first come,
// first served. Thread-safe. Bounded in requests and in prompt tokens, counting
// what waits here and what the scheduler still holds waiting.
class RequestQueue {
 public:
  struct Options {  // each at least 1
    int max_requests = 256;
    int64_t max_tokens = 1'000'000;
    CallerQuotas::Limits per_caller = {};
  };
  explicit RequestQueue(Options options);

  // Never blocks. Takes `request` iff it returns kNone. Where nothing waits,
  // one request is taken whatever its length.
  Refusal Push(std::unique_ptr<Request>& request);

  // What Push() would answer now to any request of this caller that can come to
  // have so many tokens or more: spares work on what will be refused. It may
  // have changed by the time of Push().
  Refusal WouldRefuse(
      const std::string& caller, int64_t least_tokens,
      const std::optional<CallerQuotas::Limits>& quota = std::nullopt) const;

  // Everything that has arrived since the last call, in order; empty if none.
  // The caller tells through Started() that a request began to run, or through
  // Dropped() that it ended before: it counts against the bounds until then.
  // Finished() follows when it has ended: until then it counts against its
  // caller's quota.
  std::vector<std::unique_ptr<Request>> TakeAll();
  void Started(const Request& request, absl::Time now);
  void Dropped(const Request& request);
  void Finished(const Request& request);

  // When one that was refused may find room: in the time in which a quarter of
  // what waits would start, as fast as requests started lately. What was
  // dropped says nothing of that. Nothing if nothing started.
  std::optional<absl::Duration> RetryAfter(absl::Time now) const;

  // Blocks until something arrived, Wake() or `timeout`; may return early.
  void WaitForWork(absl::Duration timeout);
  // Wakes WaitForWork(): a request was cancelled, or shutdown.
  void Wake();

  // From now on Push() answers kDraining.
  void StartDraining();

  int waiting() const;  // requests counted against the bound

 private:
  void StopsWaiting(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable Mutex mu_;
  CondVar arrived_;
  std::vector<std::unique_ptr<Request>> incoming_ ABSL_GUARDED_BY(mu_);
  int waiting_requests_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t waiting_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  DrainRate starts_ ABSL_GUARDED_BY(mu_);
  CallerQuotas quotas_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace sparseserve
