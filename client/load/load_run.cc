#include "client/load/load_run.h"

#include <algorithm>

namespace sparseserve {

std::optional<PlannedRequest> LoadRun::TakeDue(absl::Duration now) {
  if (stopped_) return std::nullopt;
  const std::optional<absl::Duration> next = schedule_.Next(now);
  if (!next.has_value() || *next > now) return std::nullopt;
  schedule_.Take();
  PlannedRequest request = plan_.Plan(sent_++, *next);
  in_flight_.emplace(request.index, request);
  if (request.cancel_after < absl::InfiniteDuration()) {
    cancels_.emplace(request.intended + request.cancel_after, request.index);
  }
  return request;
}

std::vector<int64_t> LoadRun::TakeCancels(absl::Duration now) {
  std::vector<int64_t> indices;
  while (!cancels_.empty() && cancels_.begin()->first <= now) {
    indices.push_back(cancels_.begin()->second);
    cancels_.erase(cancels_.begin());
  }
  return indices;
}

absl::Duration LoadRun::NextTime(absl::Duration now) {
  absl::Duration next = absl::InfiniteDuration();
  if (!stopped_) next = schedule_.Next(now).value_or(next);
  if (!cancels_.empty()) next = std::min(next, cancels_.begin()->first);
  return next;
}

PlannedRequest LoadRun::Ended(int64_t index, absl::Duration at) {
  const auto found = in_flight_.find(index);
  PlannedRequest request = found->second;
  in_flight_.erase(found);
  cancels_.erase({request.intended + request.cancel_after, index});
  schedule_.Ended(at);
  return request;
}

bool LoadRun::AllSent(absl::Duration now) {
  return stopped_ || !schedule_.Next(now).has_value();
}

}  // namespace sparseserve
