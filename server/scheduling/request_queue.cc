#include "server/scheduling/request_queue.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "engine/base/check.h"

namespace sparseserve {

RequestQueue::RequestQueue(Options options)
    : options_(options), quotas_(options.per_caller) {
  SPARSESERVE_CHECK(options.max_requests >= 1 && options.max_tokens >= 1);
}

Refusal RequestQueue::Push(std::unique_ptr<Request>& request) {
  const auto tokens = static_cast<int64_t>(request->prompt.size());
  {
    MutexLock lock(mu_);
    if (draining_) return Refusal::kDraining;
    const bool fits = waiting_requests_ < options_.max_requests &&
                      waiting_tokens_ + tokens <= options_.max_tokens;
    if (!fits && waiting_requests_ > 0) return Refusal::kQueueFull;
    if (!quotas_.Take(request->caller, request->most_tokens(),
                      request->quota)) {
      return Refusal::kQuota;
    }
    ++waiting_requests_;
    waiting_tokens_ += tokens;
    incoming_.push_back(std::move(request));
  }
  arrived_.NotifyOne();
  return Refusal::kNone;
}

Refusal RequestQueue::WouldRefuse(
    const std::string& caller, int64_t least_tokens,
    const std::optional<CallerQuotas::Limits>& quota) const {
  MutexLock lock(mu_);
  if (draining_) return Refusal::kDraining;
  const bool full =
      waiting_requests_ >= options_.max_requests ||
      (waiting_requests_ > 0 && waiting_tokens_ >= options_.max_tokens);
  if (full) return Refusal::kQueueFull;
  return quotas_.Allows(caller, least_tokens, quota) ? Refusal::kNone
                                                     : Refusal::kQuota;
}

std::vector<std::unique_ptr<Request>> RequestQueue::TakeAll() {
  MutexLock lock(mu_);
  return std::exchange(incoming_, {});
}

void RequestQueue::Started(const Request& request, absl::Time now) {
  MutexLock lock(mu_);
  starts_.Count(1, now);
  StopsWaiting(request);
}

void RequestQueue::Dropped(const Request& request) {
  MutexLock lock(mu_);
  StopsWaiting(request);
}

void RequestQueue::StopsWaiting(const Request& request) {
  --waiting_requests_;
  waiting_tokens_ -= static_cast<int64_t>(request.prompt.size());
  SPARSESERVE_CHECK(waiting_requests_ >= 0 && waiting_tokens_ >= 0);
}

void RequestQueue::Finished(const Request& request) {
  MutexLock lock(mu_);
  quotas_.GiveBack(request.caller, request.most_tokens(), request.quota);
}

std::optional<absl::Duration> RequestQueue::RetryAfter(absl::Time now) const {
  constexpr absl::Duration kLeast = absl::Milliseconds(50);
  constexpr absl::Duration kMost = absl::Minutes(1);
  MutexLock lock(mu_);
  const double per_second = starts_.PerSecond(now);
  if (per_second <= 0) return std::nullopt;
  return std::clamp(absl::Seconds(waiting_requests_ / 4.0 / per_second), kLeast,
                    kMost);
}

void RequestQueue::WaitForWork(absl::Duration timeout) {
  MutexLock lock(mu_);
  if (incoming_.empty() && !woken_) {
    arrived_.WaitFor(mu_, absl::ToChronoNanoseconds(timeout));
  }
  woken_ = false;
}

void RequestQueue::Wake() {
  {
    MutexLock lock(mu_);
    woken_ = true;
  }
  arrived_.NotifyOne();
}

void RequestQueue::StartDraining() {
  MutexLock lock(mu_);
  draining_ = true;
}

int RequestQueue::waiting() const {
  MutexLock lock(mu_);
  return waiting_requests_;
}

}  // namespace sparseserve
