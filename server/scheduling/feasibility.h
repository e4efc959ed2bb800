#pragma once

#include <optional>

#include "absl/time/time.h"
#include "server/scheduling/ending.h"
#include "server/scheduling/request.h"

// Whether a request's time is enough for it. Pure.

namespace sparseserve {

// When its first token is to come by its own target; the infinite future
// without one.
absl::Time TargetDeadline(const Request& request);
// Likewise by its target or by its caller's deadline, whichever is sooner.
absl::Time FirstTokenDeadline(const Request& request);

// Of a time to first token from now on.
struct FirstTokenEstimate {
  absl::Duration expected;
  absl::Duration p95;
  absl::Duration alone;  // expected without other requests
};

struct Verdict {
  std::optional<Ending> refusal = std::nullopt;
  bool is_late = false;  // taken, though its target cannot be met
};
// Nothing runs for a request whose first token is expected behind its caller's
// deadline. What cannot meet its target is refused if it asks for that, by the
// 95th percentile; else it is late, if it is expected to be.
Verdict Judge(const Request& request, const FirstTokenEstimate& estimate,
              absl::Time now);

}  // namespace sparseserve
