#pragma once

namespace sparseserve {

// Why a request ended in an error. What its caller may do about it, what the
// metrics count and what ErrorInfo says follow from this: see
// rpc/reason_rules.h.
enum class ErrorReason {
  kNoCredential,
  kNotAllowed,
  kInvalidField,
  kNotImplemented,
  kPromptTooLong,
  kModelNotFound,
  kMethodNotFound,
  kMethodDisabled,
  kPatternUnsupported,
  kPlanNotFound,
  kQueueFull,
  kQuota,
  kDraining,
  kCancelled,
  kDeadlineInQueue,
  kDeadlineExpired,
  kDeadlineUnmeetable,
  kDeadlineTooShort,
  kSlowConsumer,
  kNumericFault,
  kDeviceFailed,
};

}  // namespace sparseserve
