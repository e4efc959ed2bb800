#include "server/scheduling/feasibility.h"

#include <algorithm>

namespace sparseserve {

absl::Time TargetDeadline(const Request& request) {
  return request.arrival +
         std::min(request.target.time_to_first_token, request.target.total);
}

absl::Time FirstTokenDeadline(const Request& request) {
  return std::min(TargetDeadline(request), request.deadline);
}

Verdict Judge(const Request& request, const FirstTokenEstimate& estimate,
              absl::Time now) {
  const auto refusal = [&](absl::Time deadline) {
    return now + estimate.alone > deadline ? Ending::kTooShort
                                           : Ending::kUnmeetable;
  };
  if (now + estimate.expected > request.deadline) {
    return {.refusal = refusal(request.deadline)};
  }
  const absl::Time target = TargetDeadline(request);
  if (request.target.on_miss == OnMiss::kReject &&
      now + estimate.p95 > target) {
    return {.refusal = refusal(target)};
  }
  return {.is_late = now + estimate.expected > target};
}

}  // namespace sparseserve
