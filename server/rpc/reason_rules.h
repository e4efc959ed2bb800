#pragma once

#include <optional>

#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/error_reason.h"

// What follows from an ErrorReason. Switches without a default: the compiler
// names each that a new reason must enter.

namespace sparseserve {

// What ErrorInfo.reason says, in UPPER_SNAKE_CASE.
const char* ReasonName(ErrorReason reason);

// How a refusal is counted.
RejectReason RejectReasonOf(ErrorReason reason);

// When to try again, here or at another replica, where the code is UNAVAILABLE;
// nothing if that is the caller's to say.
std::optional<absl::Duration> RetryDelayOf(ErrorReason reason);

}  // namespace sparseserve
