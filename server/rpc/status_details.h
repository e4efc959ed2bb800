#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/error_reason.h"
#include "server/scheduling/token_sink.h"

// Errors as callers see them. Code that finds an error makes an absl::Status
// with the functions below; it carries google.rpc details as its payload, and
// ToGrpcStatus() alone turns it into what goes over the wire.

namespace sparseserve {

// ErrorInfo.domain of every error of this server.
inline constexpr char kErrorDomain[] = "sparseserve.dev";

// Bytes that the details of one error may take: with base64, the message and
// the request id, trailers stay below gRPC's 8 KiB.
inline constexpr size_t kMaxDetailBytes = 4096;

// One wrong field: "options.sampling.top_p", "1.5", "above 0 and at most 1".
struct FieldViolation {
  std::string field;
  std::string value;        // empty where it would not help
  std::string requirement;  // completes "must be ..."
};

// What is said about an error besides its code and message.
struct ErrorDetails {
  ErrorReason reason;
  // Everything in the message that varies. Keys in lowerCamelCase.
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<FieldViolation> violations;
  // ResourceInfo: type and name.
  std::optional<std::pair<std::string, std::string>> resource;
  // QuotaFailure: whose quota is used up.
  std::optional<std::string> quota_subject = std::nullopt;
  // When to try again, where that is known better than by the reason.
  std::optional<absl::Duration> retry_after = std::nullopt;
};

// `status`, not OK, with `details` attached.
absl::Status WithDetails(absl::Status status, const ErrorDetails& details);

// What a sink was told, with its details.
absl::Status ToStatus(const Failure& failure);

// INVALID_ARGUMENT / INVALID_FIELD naming all of `violations` (not empty);
// `found` >= violations.size() is how many there were.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations,
                           int found);
// UNIMPLEMENTED / NOT_IMPLEMENTED.
absl::Status NotImplemented(const std::vector<FieldViolation>& violations);
// INVALID_ARGUMENT / PROMPT_TOO_LONG; `unit` is "tokens" or "bytes"; no `size`
// if it was not counted to the end.
absl::Status PromptTooLong(std::string_view field, std::optional<int64_t> size,
                           int64_t limit, std::string_view unit);
absl::Status ModelNotFound(std::string_view name);
// UNIMPLEMENTED / METHOD_NOT_FOUND.
absl::Status MethodNotFound(std::string_view method);
// UNIMPLEMENTED / METHOD_DISABLED; `flag` is the server's that enables it.
absl::Status MethodDisabled(std::string_view method, std::string_view flag);
// UNAUTHENTICATED / NO_CREDENTIAL or PERMISSION_DENIED / NOT_ALLOWED. Names
// nobody and nothing that the caller did not send.
absl::Status AccessDenied(AuthFailure failure);
// FAILED_PRECONDITION / PATTERN_UNSUPPORTED; `why` is a sentence without a full
// stop.
absl::Status PatternUnsupported(std::string_view pattern,
                                std::string_view model, std::string_view why);
// NOT_FOUND / PLAN_NOT_FOUND.
absl::Status PlanNotFound(std::string_view plan, std::string_view model);
// `retry_after` is none where that is not known.
absl::Status QueueFull(int waiting, std::optional<absl::Duration> retry_after);
// RESOURCE_EXHAUSTED / QUOTA, with a QuotaFailure.
absl::Status QuotaExceeded(std::string_view caller);
// UNAVAILABLE / QUEUE_FULL, where one at a time is explained.
absl::Status ExplanationRuns();
absl::Status Draining();

// ErrorInfo.reason of `status`; for one without details, its code's name.
std::string ReasonOf(const absl::Status& status);

// How the metrics count a refusal with `status`.
RejectReason RejectReasonOf(const absl::Status& status);

// When a caller may try again: goes into RetryInfo and into the trailer
// `grpc-retry-pushback-ms`. Nothing if a retry does not help: only UNAVAILABLE
// promises that it may.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

// The one way to the wire: code, message and google.rpc.Status details with
// ErrorInfo, RetryInfo where a retry helps, and RequestInfo.
grpc::Status ToGrpcStatus(const absl::Status& status,
                          std::string_view request_id);

// `text` cut to `max_bytes` at a character's border, control characters
// replaced: for values that callers sent and errors repeat.
std::string Excerpt(std::string_view text, size_t max_bytes);

}  // namespace sparseserve
