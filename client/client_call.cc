#include "client/client_call.h"

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/status_payload.h"

namespace sparseserve {
namespace {

bool IsLegalKey(absl::string_view key) {
  for (const char c : key) {
    const bool legal = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-';
    if (!legal) return false;
  }
  return !key.empty() && !absl::StartsWith(key, "grpc-") &&
         !absl::EndsWith(key, "-bin");
}

bool IsPrintableAscii(absl::string_view value) {
  for (const char c : value) {
    if (c < 0x20 || c > 0x7e) return false;
  }
  return true;
}

}  // namespace

absl::Status ValidateCallOptions(const CallOptions& options) {
  for (const auto& [key, value] : options.metadata) {
    if (!IsLegalKey(key)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "metadata key \"", absl::CHexEscape(key),
          "\" must be of [a-z0-9_.-], not start with \"grpc-\" and not end in "
          "\"-bin\""));
    }
    if (!IsPrintableAscii(value)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the value of metadata \"", key, "\" must be printable ASCII"));
    }
  }
  return absl::OkStatus();
}

ClientCall::ClientCall(const CallOptions& options)
    : stop_(options.stop),
      on_stop_(options.stop, [this] { context_.TryCancel(); }) {
  if (options.timeout != absl::InfiniteDuration()) {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
  }
  context_.set_wait_for_ready(options.wait_for_ready);
  for (const auto& [key, value] : options.metadata) {
    context_.AddMetadata(key, value);
  }
}

absl::Status ClientCall::Result(const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kCancelled && stop_.stop_requested()) {
    return absl::CancelledError("stopped by the caller");
  }
  absl::Status result(code, status.error_message());
  if (!status.error_details().empty()) {
    result.SetPayload(kErrorDetailsPayload, absl::Cord(status.error_details()));
  }
  return result;
}

}  // namespace sparseserve
