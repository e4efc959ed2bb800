#include "server/rpc/status_details.h"

#include <algorithm>
#include <map>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "engine/base/check.h"
#include "engine/base/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/rpc/reason_rules.h"

namespace sparseserve {
namespace {

// Of the details, as they travel, and of the reason, which stays here.
constexpr char kPayloadUrl[] = "type.googleapis.com/google.rpc.Status";
constexpr char kReasonUrl[] = "sparseserve.dev/ErrorReason";
// Nanoseconds in decimal.
constexpr char kRetryUrl[] = "sparseserve.dev/RetryAfter";
// Nobody is sent away for longer.
constexpr absl::Duration kLongestRetryDelay = absl::Minutes(1);
constexpr size_t kMaxMessageBytes = 512;
constexpr size_t kMaxValueBytes = 96;
constexpr size_t kMaxFieldBytes = 128;
// Beyond, a list only repeats itself.
constexpr size_t kMaxListedViolations = 16;

// Nothing for a status without details.
std::optional<ErrorReason> TypedReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonUrl);
  if (!payload.has_value()) return std::nullopt;
  SPARSESERVE_CHECK(payload->size() == 1);
  return static_cast<ErrorReason>((*payload)[0]);
}

std::string Description(const FieldViolation& violation) {
  std::string text;
  if (!violation.value.empty()) {
    text = StrCat("is ", Excerpt(violation.value, kMaxValueBytes), ", ");
  }
  return StrCat(text, "must be ", violation.requirement);
}

google::rpc::Status DetailsOf(const absl::Status& status) {
  google::rpc::Status details;
  if (const auto payload = status.GetPayload(kPayloadUrl)) {
    details.ParseFromString(std::string(*payload));
  }
  return details;
}

std::optional<google::rpc::ErrorInfo> ErrorInfoOf(
    const google::rpc::Status& details) {
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    if (any.UnpackTo(&info)) return info;
  }
  return std::nullopt;
}

// INVALID_ARGUMENT and UNIMPLEMENTED name fields alike.
absl::Status FieldError(absl::StatusCode code, ErrorReason reason,
                        const std::vector<FieldViolation>& violations,
                        int found) {
  const FieldViolation& first = violations.front();
  const std::string field = Excerpt(first.field, kMaxFieldBytes);
  std::string message = StrCat(field, " ", Description(first));
  ErrorDetails details;
  details.reason = reason;
  details.metadata = {{"field", field}, {"requirement", first.requirement}};
  if (!first.value.empty()) {
    details.metadata.emplace_back("value",
                                  Excerpt(first.value, kMaxValueBytes));
  }
  if (found > 1) {
    message = StrCat(message, "; and ", found - 1, " more");
    details.metadata.emplace_back("more", StrCat(found - 1));
  }
  details.violations = violations;
  return WithDetails(absl::Status(code, message), details);
}

}  // namespace

absl::Status WithDetails(absl::Status status, const ErrorDetails& details) {
  google::rpc::Status packed;
  google::rpc::ErrorInfo info;
  info.set_reason(ReasonName(details.reason));
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : details.metadata) {
    (*info.mutable_metadata())[key] = Excerpt(value, kMaxMessageBytes);
  }
  packed.add_details()->PackFrom(info);

  if (details.resource.has_value()) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_type(details.resource->first);
    resource.set_resource_name(
        Excerpt(details.resource->second, kMaxFieldBytes));
    packed.add_details()->PackFrom(resource);
  }
  if (details.quota_subject.has_value()) {
    google::rpc::QuotaFailure quota;
    auto& violation = *quota.add_violations();
    violation.set_subject(*details.quota_subject);
    violation.set_description(std::string(status.message()));
    packed.add_details()->PackFrom(quota);
  }
  if (!details.violations.empty()) {
    google::rpc::BadRequest bad_request;
    // Leaves room for ErrorInfo and RequestInfo.
    size_t bytes = packed.ByteSizeLong() + 512;
    for (const FieldViolation& violation : details.violations) {
      if (bad_request.field_violations_size() == kMaxListedViolations) break;
      google::rpc::BadRequest::FieldViolation entry;
      entry.set_field(Excerpt(violation.field, kMaxFieldBytes));
      entry.set_description(Excerpt(Description(violation), kMaxMessageBytes));
      bytes += entry.ByteSizeLong() + 4;
      if (bytes > kMaxDetailBytes) break;
      *bad_request.add_field_violations() = std::move(entry);
    }
    packed.add_details()->PackFrom(bad_request);
  }
  status.SetPayload(kPayloadUrl, absl::Cord(packed.SerializeAsString()));
  status.SetPayload(kReasonUrl, absl::Cord(std::string(
                                    1, static_cast<char>(details.reason))));
  if (details.retry_after.has_value()) {
    const absl::Duration delay = std::clamp(
        *details.retry_after, absl::ZeroDuration(), kLongestRetryDelay);
    status.SetPayload(kRetryUrl,
                      absl::Cord(StrCat(absl::ToInt64Nanoseconds(delay))));
  }
  return status;
}

absl::Status ToStatus(const Failure& failure) {
  ErrorDetails details;
  details.reason = failure.reason;
  details.retry_after = failure.retry_after;
  if (failure.estimate.has_value()) {
    details.metadata = {
        {"estimatedMs", StrCat(absl::ToInt64Milliseconds(*failure.estimate))}};
  }
  return WithDetails(failure.status, details);
}

absl::Status InvalidFields(const std::vector<FieldViolation>& violations,
                           int found) {
  return FieldError(absl::StatusCode::kInvalidArgument,
                    ErrorReason::kInvalidField, violations, found);
}

absl::Status NotImplemented(const std::vector<FieldViolation>& violations) {
  return FieldError(absl::StatusCode::kUnimplemented,
                    ErrorReason::kNotImplemented, violations,
                    static_cast<int>(violations.size()));
}

absl::Status PromptTooLong(std::string_view field, std::optional<int64_t> size,
                           int64_t limit, std::string_view unit) {
  const std::string length =
      StrCat(size.has_value() ? StrCat(*size) : StrCat("more than ", limit),
             " ", unit, " long");
  ErrorDetails details;
  details.reason = ErrorReason::kPromptTooLong;
  details.metadata = {{"field", std::string(field)},
                      {"limit", StrCat(limit)},
                      {"unit", std::string(unit)}};
  if (size.has_value()) details.metadata.emplace_back("size", StrCat(*size));
  details.violations = {
      {std::string(field), length, StrCat("at most ", limit, " ", unit)}};
  return WithDetails(absl::InvalidArgumentError(StrCat(
                         field, " is ", length, ", must be at most ", limit)),
                     details);
}

absl::Status ModelNotFound(std::string_view name) {
  ErrorDetails details;
  details.reason = ErrorReason::kModelNotFound;
  details.metadata = {{"model", Excerpt(name, kMaxFieldBytes)}};
  details.resource = {"sparseserve.v1.Model", std::string(name)};
  return WithDetails(absl::NotFoundError(StrCat(
                         "no model ", Excerpt(name, kMaxFieldBytes), " here")),
                     details);
}

absl::Status MethodNotFound(std::string_view method) {
  ErrorDetails details;
  details.reason = ErrorReason::kMethodNotFound;
  const std::string name = Excerpt(method, kMaxFieldBytes);
  details.metadata = {{"method", name}};
  return WithDetails(
      absl::UnimplementedError(StrCat("no method ", name, " here")), details);
}

absl::Status MethodDisabled(std::string_view method, std::string_view flag) {
  ErrorDetails details;
  details.reason = ErrorReason::kMethodDisabled;
  details.metadata = {{"method", std::string(method)},
                      {"flag", std::string(flag)}};
  return WithDetails(
      absl::UnimplementedError(StrCat(method, " is off: the server answers it ",
                                      "if it is started with ", flag)),
      details);
}

absl::Status AccessDenied(AuthFailure failure) {
  ErrorDetails details;
  details.reason = ErrorReason::kNoCredential;
  const auto no_credential = [&details](absl::string_view message) {
    return WithDetails(absl::UnauthenticatedError(message), details);
  };
  switch (failure) {
    case AuthFailure::kNoCredential:
      return no_credential(
          "the call needs a client certificate or a bearer token");
    case AuthFailure::kExpiredToken:
      return no_credential("the token has expired");
    case AuthFailure::kTokenNotYetValid:
      return no_credential("the token is not valid yet");
    case AuthFailure::kMalformedToken:
    case AuthFailure::kUnknownToken:
    case AuthFailure::kBadSignature:
    case AuthFailure::kWrongClaims:
      return no_credential("the token is not valid here");
    case AuthFailure::kUnknownCaller:
    case AuthFailure::kMethodNotAllowed:
    case AuthFailure::kModelNotAllowed:
      break;
  }
  details.reason = ErrorReason::kNotAllowed;
  return WithDetails(
      absl::PermissionDeniedError("the caller is not allowed to do this"),
      details);
}

absl::Status PatternUnsupported(std::string_view pattern,
                                std::string_view model, std::string_view why) {
  ErrorDetails details;
  details.reason = ErrorReason::kPatternUnsupported;
  details.metadata = {{"pattern", std::string(pattern)},
                      {"model", std::string(model)},
                      {"cause", std::string(why)}};
  return WithDetails(absl::FailedPreconditionError(
                         StrCat("attention pattern ", pattern,
                                " is not available for ", model, ": ", why)),
                     details);
}

absl::Status PlanNotFound(std::string_view plan, std::string_view model) {
  ErrorDetails details;
  details.reason = ErrorReason::kPlanNotFound;
  const std::string name = Excerpt(plan, kMaxValueBytes);
  details.metadata = {{"plan", name}, {"model", std::string(model)}};
  details.resource = {"sparseserve.v1.AttentionPlan", std::string(plan)};
  return WithDetails(
      absl::NotFoundError(StrCat(model, " has no attention plan ", name)),
      details);
}

absl::Status QuotaExceeded(std::string_view caller) {
  constexpr char kDescription[] =
      "the caller has as many requests, or tokens of them, as it may";
  ErrorDetails details;
  details.reason = ErrorReason::kQuota;
  details.quota_subject = Excerpt(caller, kMaxFieldBytes);
  return WithDetails(absl::ResourceExhaustedError(kDescription), details);
}

absl::Status QueueFull(int waiting, std::optional<absl::Duration> retry_after) {
  ErrorDetails details;
  details.retry_after = retry_after;
  details.reason = ErrorReason::kQueueFull;
  details.metadata = {{"waiting", StrCat(waiting)}};
  return WithDetails(absl::UnavailableError(StrCat(
                         "the queue is full: ", waiting, " requests wait")),
                     details);
}

absl::Status ExplanationRuns() {
  ErrorDetails details;
  details.reason = ErrorReason::kQueueFull;
  return WithDetails(
      absl::UnavailableError("another prompt is being explained, of which the "
                             "server does one at a time"),
      details);
}

absl::Status Draining() {
  ErrorDetails details;
  details.reason = ErrorReason::kDraining;
  return WithDetails(absl::UnavailableError("the server is shutting down"),
                     details);
}

std::string ReasonOf(const absl::Status& status) {
  if (const auto reason = TypedReasonOf(status)) return ReasonName(*reason);
  return absl::StatusCodeToString(status.code());
}

RejectReason RejectReasonOf(const absl::Status& status) {
  const std::optional<ErrorReason> reason = TypedReasonOf(status);
  return reason.has_value() ? RejectReasonOf(*reason)
                            : RejectReason::kInvalidArgument;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const std::optional<ErrorReason> reason = TypedReasonOf(status);
  if (!reason.has_value() || !absl::IsUnavailable(status)) return std::nullopt;
  if (const auto known = status.GetPayload(kRetryUrl)) {
    int64_t nanoseconds = 0;
    SPARSESERVE_CHECK(absl::SimpleAtoi(std::string(*known), &nanoseconds));
    return absl::Nanoseconds(nanoseconds);
  }
  return RetryDelayOf(*reason);
}

grpc::Status ToGrpcStatus(const absl::Status& status,
                          std::string_view request_id) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status packed = DetailsOf(status);
  if (!ErrorInfoOf(packed).has_value()) {
    google::rpc::ErrorInfo info;
    info.set_reason(ReasonOf(status));
    info.set_domain(kErrorDomain);
    packed.add_details()->PackFrom(info);
  }
  if (const auto delay = RetryDelayOf(status)) {
    google::rpc::RetryInfo retry;
    const int64_t nanoseconds = absl::ToInt64Nanoseconds(*delay);
    retry.mutable_retry_delay()->set_seconds(nanoseconds / 1'000'000'000);
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int>(nanoseconds % 1'000'000'000));
    packed.add_details()->PackFrom(retry);
  }
  google::rpc::RequestInfo request;
  request.set_request_id(std::string(request_id));
  packed.add_details()->PackFrom(request);

  const std::string message = Excerpt(
      std::string_view(status.message().data(), status.message().size()),
      kMaxMessageBytes);
  packed.set_code(static_cast<int>(status.code()));
  packed.set_message(message);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      packed.SerializeAsString());
}

std::string Excerpt(std::string_view text, size_t max_bytes) {
  const bool cut = text.size() > max_bytes;
  if (cut) {
    size_t end = max_bytes - 3;  // room for the dots
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
      --end;
    }
    text = text.substr(0, end);
  }
  std::string excerpt(text);
  std::replace_if(
      excerpt.begin(), excerpt.end(),
      [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
  if (cut) excerpt += "...";
  return excerpt;
}

}  // namespace sparseserve
