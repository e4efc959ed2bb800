#include "server/scheduling/feasibility.h"

#include <algorithm>

namespace sparseserve {
namespace {

// Others join while an answer is written.
constexpr double kMargin = 1.1;

}  // namespace

absl::Time TargetDeadline(const Request& request) {
  return request.arrival +
         std::min(request.target.time_to_first_token, request.target.total);
}

absl::Time FirstTokenDeadline(const Request& request) {
  return std::min(TargetDeadline(request), request.deadline);
}

int LeastOutput(const Request& request) {
  const bool writes_all = request.ignore_eos && request.stop_strings.empty() &&
                          request.stop_token_ids.empty();
  return std::max(
      writes_all ? request.max_output_tokens : request.min_output_tokens, 1);
}

absl::Duration LeastTime(const Request& request,
                         const FirstTokenEstimate& estimate) {
  return estimate.expected +
         kMargin * (LeastOutput(request) - 1) * estimate.token_lately;
}

absl::Duration LeastTimeAlone(const Request& request,
                              const FirstTokenEstimate& estimate) {
  return estimate.alone + (LeastOutput(request) - 1) * estimate.token_alone;
}

Verdict Judge(const Request& request, const FirstTokenEstimate& estimate,
              absl::Time now) {
  const auto refusal = [&](absl::Duration alone, absl::Time deadline) {
    return now + alone > deadline ? Ending::kTooShort : Ending::kUnmeetable;
  };
  const int more = LeastOutput(request) - 1;
  if (now + LeastTime(request, estimate) > request.deadline) {
    return {.refusal =
                refusal(LeastTimeAlone(request, estimate), request.deadline)};
  }
  const absl::Time target = TargetDeadline(request);
  if (request.target.on_miss == OnMiss::kReject &&
      now + estimate.p95 > target) {
    return {.refusal = refusal(estimate.alone, target)};
  }
  if (request.target.on_miss == OnMiss::kReject) {
    const absl::Duration each = request.target.time_per_output_token;
    if (request.max_output_tokens > 1 && estimate.token_p95 > each) {
      return {.refusal = estimate.token_alone > each ? Ending::kTooShort
                                                     : Ending::kUnmeetable};
    }
    const absl::Time end = request.arrival + request.target.total;
    if (now + estimate.p95 + more * estimate.token_p95 > end) {
      return {.refusal = refusal(LeastTimeAlone(request, estimate), end)};
    }
  }
  return {.is_late = now + estimate.expected > target};
}

}  // namespace sparseserve
