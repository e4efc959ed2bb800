#include "server/rpc/reason_rules.h"

#include "engine/base/check.h"

namespace sparseserve {

const char* ReasonName(ErrorReason reason) {
  switch (reason) {
    case ErrorReason::kNoCredential:
      return "NO_CREDENTIAL";
    case ErrorReason::kNotAllowed:
      return "NOT_ALLOWED";
    case ErrorReason::kInvalidField:
      return "INVALID_FIELD";
    case ErrorReason::kNotImplemented:
      return "NOT_IMPLEMENTED";
    case ErrorReason::kPromptTooLong:
      return "PROMPT_TOO_LONG";
    case ErrorReason::kModelNotFound:
      return "MODEL_NOT_FOUND";
    case ErrorReason::kMethodNotFound:
      return "METHOD_NOT_FOUND";
    case ErrorReason::kMethodDisabled:
      return "METHOD_DISABLED";
    case ErrorReason::kPatternUnsupported:
      return "PATTERN_UNSUPPORTED";
    case ErrorReason::kPlanNotFound:
      return "PLAN_NOT_FOUND";
    case ErrorReason::kQueueFull:
      return "QUEUE_FULL";
    case ErrorReason::kQuota:
      return "QUOTA";
    case ErrorReason::kDraining:
      return "DRAINING";
    case ErrorReason::kCancelled:
      return "CANCELLED";
    case ErrorReason::kDeadlineInQueue:
      return "DEADLINE_IN_QUEUE";
    case ErrorReason::kDeadlineExpired:
      return "DEADLINE_EXPIRED";
    case ErrorReason::kDeadlineUnmeetable:
      return "DEADLINE_UNMEETABLE";
    case ErrorReason::kDeadlineTooShort:
      return "DEADLINE_TOO_SHORT";
    case ErrorReason::kSlowConsumer:
      return "SLOW_CONSUMER";
    case ErrorReason::kNumericFault:
      return "NUMERIC_FAULT";
    case ErrorReason::kDeviceFailed:
      return "DEVICE_FAILED";
  }
  SPARSESERVE_CHECK(false && "unknown reason");
}

RejectReason RejectReasonOf(ErrorReason reason) {
  switch (reason) {
    case ErrorReason::kPromptTooLong:
      return RejectReason::kPromptTooLong;
    case ErrorReason::kQueueFull:
      return RejectReason::kQueueFull;
    case ErrorReason::kQuota:
      return RejectReason::kQuota;
    case ErrorReason::kDraining:
      return RejectReason::kDraining;
    case ErrorReason::kDeadlineUnmeetable:
    case ErrorReason::kDeadlineTooShort:
      return RejectReason::kDeadlineUnmeetable;
    case ErrorReason::kNoCredential:
    case ErrorReason::kNotAllowed:
    case ErrorReason::kInvalidField:
    case ErrorReason::kNotImplemented:
    case ErrorReason::kModelNotFound:
    case ErrorReason::kMethodNotFound:
    case ErrorReason::kMethodDisabled:
    case ErrorReason::kPatternUnsupported:
    case ErrorReason::kPlanNotFound:
    // Not refusals: these end what was accepted.
    case ErrorReason::kCancelled:
    case ErrorReason::kDeadlineInQueue:
    case ErrorReason::kDeadlineExpired:
    case ErrorReason::kSlowConsumer:
    case ErrorReason::kNumericFault:
    case ErrorReason::kDeviceFailed:
      return RejectReason::kInvalidArgument;
  }
  SPARSESERVE_CHECK(false && "unknown reason");
}

std::optional<absl::Duration> RetryDelayOf(ErrorReason reason) {
  switch (reason) {
    case ErrorReason::kQueueFull:
    case ErrorReason::kDeadlineUnmeetable:
      return absl::Milliseconds(200);
    // At once: another replica is meant.
    case ErrorReason::kDraining:
    case ErrorReason::kDeviceFailed:
      return absl::ZeroDuration();
    // Until one of the caller's own requests ends.
    case ErrorReason::kQuota:
    case ErrorReason::kNoCredential:
    case ErrorReason::kNotAllowed:
    case ErrorReason::kInvalidField:
    case ErrorReason::kNotImplemented:
    case ErrorReason::kPromptTooLong:
    case ErrorReason::kModelNotFound:
    case ErrorReason::kMethodNotFound:
    case ErrorReason::kMethodDisabled:
    case ErrorReason::kPatternUnsupported:
    case ErrorReason::kPlanNotFound:
    case ErrorReason::kCancelled:
    case ErrorReason::kDeadlineInQueue:
    case ErrorReason::kDeadlineExpired:
    case ErrorReason::kDeadlineTooShort:
    case ErrorReason::kSlowConsumer:
    case ErrorReason::kNumericFault:
      return std::nullopt;
  }
  SPARSESERVE_CHECK(false && "unknown reason");
}

}  // namespace sparseserve
