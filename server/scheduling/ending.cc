#include "server/scheduling/ending.h"

#include "engine/base/check.h"

namespace sparseserve {

bool IsRefusal(Ending ending) {
  return ending == Ending::kUnmeetable || ending == Ending::kTooShort;
}

Failure FailureOf(Ending ending, Progress progress) {
  const bool started = progress != Progress::kWaiting;
  switch (ending) {
    case Ending::kFinished:
      break;
    case Ending::kCancelled:
      return {absl::CancelledError("the caller cancelled the request"),
              ErrorReason::kCancelled};
    case Ending::kDeadline:
      if (started) {
        return {absl::DeadlineExceededError(
                    "the deadline passed while the answer was generated"),
                ErrorReason::kDeadlineExpired};
      }
      return {absl::DeadlineExceededError(
                  "the deadline passed while the request was waiting"),
              ErrorReason::kDeadlineInQueue};
    case Ending::kSlowConsumer:
      return {absl::CancelledError(
                  "the caller read more slowly than output was generated"),
              ErrorReason::kSlowConsumer};
    case Ending::kDraining:
      return {absl::UnavailableError("the server is shutting down"),
              ErrorReason::kDraining};
    case Ending::kNumericFault:
      return {absl::InternalError(
                  "computing the next token gave no usable numbers"),
              ErrorReason::kNumericFault};
    case Ending::kDeviceFailed:
      // What had started may be what broke the device: clients must not send
      // it to the next replica. What had not may go there.
      if (started) {
        return {absl::InternalError("the device failed"),
                ErrorReason::kDeviceFailed};
      }
      return {absl::UnavailableError("the device failed"),
              ErrorReason::kDeviceFailed};
    case Ending::kUnmeetable:
      return {absl::UnavailableError(
                  "the requests ahead take longer than this one may wait"),
              ErrorReason::kDeadlineUnmeetable};
    case Ending::kTooShort:
      return {absl::DeadlineExceededError(
                  "the prompt alone takes longer than the request may"),
              ErrorReason::kDeadlineTooShort};
  }
  SPARSESERVE_CHECK(false && "a finished sequence has no failure");
}

FinishOutcome OutcomeOf(Ending ending, FinishReason reason) {
  switch (ending) {
    case Ending::kFinished:
      switch (reason) {
        case FinishReason::kStop:
          return FinishOutcome::kStop;
        case FinishReason::kLength:
          return FinishOutcome::kLength;
        case FinishReason::kStopSequence:
          return FinishOutcome::kStopSequence;
      }
      break;
    case Ending::kCancelled:
    case Ending::kSlowConsumer:
    case Ending::kDraining:
      return FinishOutcome::kCancelled;
    case Ending::kDeadline:
      return FinishOutcome::kDeadline;
    case Ending::kNumericFault:
    case Ending::kDeviceFailed:
      return FinishOutcome::kError;
    case Ending::kUnmeetable:
    case Ending::kTooShort:
      break;
  }
  SPARSESERVE_CHECK(false && "unknown ending");
}

std::optional<CancelCause> CancelCauseOf(Ending ending) {
  switch (ending) {
    case Ending::kCancelled:
      return CancelCause::kClient;
    case Ending::kDeadline:
      return CancelCause::kDeadline;
    case Ending::kSlowConsumer:
      return CancelCause::kSlowConsumer;
    case Ending::kDraining:
      return CancelCause::kDrain;
    case Ending::kFinished:
    case Ending::kNumericFault:
    case Ending::kDeviceFailed:
    case Ending::kUnmeetable:
    case Ending::kTooShort:
      return std::nullopt;
  }
  SPARSESERVE_CHECK(false && "unknown ending");
}

CancelStage CancelStageOf(Ending ending, Progress progress) {
  if (ending == Ending::kSlowConsumer) return CancelStage::kWrite;
  switch (progress) {
    case Progress::kWaiting:
      return CancelStage::kQueue;
    case Progress::kPrefill:
      return CancelStage::kPrefill;
    case Progress::kDecode:
      return CancelStage::kDecode;
  }
  SPARSESERVE_CHECK(false && "unknown progress");
}

}  // namespace sparseserve
