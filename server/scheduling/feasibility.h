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

// Output tokens that it is sure to write, if nothing ends it before.
int LeastOutput(const Request& request);

// Of a time to first token from now on, and of each token that follows.
struct FirstTokenEstimate {
  absl::Duration expected;
  absl::Duration p95;
  absl::Duration alone;  // expected without other requests
  absl::Duration token_p95 = absl::ZeroDuration();
  absl::Duration token_alone = absl::ZeroDuration();
  // Of each token as steps went lately.
  absl::Duration token_lately = absl::ZeroDuration();
};

// From now on until an answer may be whole: to the last of LeastOutput()
// tokens.
absl::Duration LeastTime(const Request& request,
                         const FirstTokenEstimate& estimate);
// Likewise if there were no other requests.
absl::Duration LeastTimeAlone(const Request& request,
                              const FirstTokenEstimate& estimate);

struct Verdict {
  std::optional<Ending> refusal = std::nullopt;
  bool is_late = false;  // taken, though its target cannot be met
};
// Nothing runs for a request whose first token, or the last of LeastOutput(),
// is expected behind its caller's deadline. What cannot meet its targets is
// refused if it asks for that, by the 95th percentile: that of the first token,
// that of each token beside what is written now, and that of the last of
// LeastOutput() tokens. Else it is late, if its first token is expected to be.
Verdict Judge(const Request& request, const FirstTokenEstimate& estimate,
              absl::Time now);

}  // namespace sparseserve
