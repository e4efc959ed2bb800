#pragma once

#include <optional>

#include "absl/status/status.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/error_reason.h"
#include "server/scheduling/token_sink.h"

namespace sparseserve {

// Why a sequence ended. What its caller hears and what the metrics count
// follow from this alone.
enum class Ending {
  kFinished,      // well; a FinishReason says how
  kCancelled,     // the caller left
  kDeadline,      // the caller's deadline passed
  kSlowConsumer,  // the sink was full
  kDraining,      // the server is going away
  kNumericFault,  // its slice failed
  kDeviceFailed,  // the whole step failed
  kUnmeetable,    // never ran: its time would pass in the queue
  kTooShort,      // never ran: its time is too short even without a queue
};

// How far a sequence had come.
enum class Progress { kWaiting, kPrefill, kDecode };

// Whether the request was refused rather than ended.
bool IsRefusal(Ending ending);

// REQUIRES: ending is not kFinished.
Failure FailureOf(Ending ending, Progress progress);

// `reason` matters only for kFinished. REQUIRES: !IsRefusal(ending).
FinishOutcome OutcomeOf(Ending ending, FinishReason reason);

// Empty if the ending is not a cancellation.
std::optional<CancelCause> CancelCauseOf(Ending ending);

// REQUIRES: CancelCauseOf(ending) has a value.
CancelStage CancelStageOf(Ending ending, Progress progress);

}  // namespace sparseserve
