#include "client/error_details.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/status_payload.h"
#include "client/wire_format.pb.h"

namespace sparseserve {
namespace {

// Generated names differ from the originals', so Any::UnpackTo cannot be used.
template <typename Message>
bool Unpack(const google::protobuf::Any& any, absl::string_view original,
            Message& message) {
  absl::string_view type = any.type_url();
  if (const auto slash = type.rfind('/'); slash != type.npos) {
    type.remove_prefix(slash + 1);
  }
  return type == original && message.ParseFromString(any.value());
}

void AddDetail(const google::protobuf::Any& any, ErrorDetails& details) {
  client_wire::ErrorInfo info;
  client_wire::RetryInfo retry;
  client_wire::BadRequest bad_request;
  if (Unpack(any, "google.rpc.ErrorInfo", info)) {
    details.reason = info.reason();
    details.domain = info.domain();
    details.metadata.insert(info.metadata().begin(), info.metadata().end());
  } else if (Unpack(any, "google.rpc.RetryInfo", retry)) {
    details.retry_delay = absl::Seconds(retry.retry_delay().seconds()) +
                          absl::Nanoseconds(retry.retry_delay().nanos());
  } else if (Unpack(any, "google.rpc.BadRequest", bad_request)) {
    for (auto& violation : *bad_request.mutable_field_violations()) {
      details.field_violations.push_back(
          {std::move(*violation.mutable_field()),
           std::move(*violation.mutable_description())});
    }
  }
}

}  // namespace

ErrorDetails DecodeErrorDetails(const absl::Status& status) {
  ErrorDetails details;
  const auto payload = status.GetPayload(kErrorDetailsPayload);
  client_wire::Status decoded;
  if (!payload.has_value() || !decoded.ParseFromString(std::string(*payload))) {
    return details;
  }
  for (const auto& any : decoded.details()) AddDetail(any, details);
  return details;
}

std::string DescribeError(const absl::Status& status) {
  const ErrorDetails details = DecodeErrorDetails(status);
  const absl::string_view message = status.message();
  std::string text =
      absl::StrCat(absl::StatusCodeToString(status.code()), ": ", message);
  for (const auto& violation : details.field_violations) {
    if (absl::StrContains(message, violation.field) &&
        absl::StrContains(message, violation.description)) {
      continue;
    }
    absl::StrAppend(&text, "\n  ", violation.field, ": ",
                    violation.description);
  }
  if (!details.reason.empty()) {
    absl::StrAppend(&text, "\n  reason: ", details.reason);
  }
  if (details.retry_delay.has_value()) {
    absl::StrAppend(
        &text, "\n  retry after: ", absl::FormatDuration(*details.retry_delay));
  }
  return text;
}

}  // namespace sparseserve
