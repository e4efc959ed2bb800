#include "client/load/request_outcome.h"

#include "client/error_details.h"

namespace sparseserve {

void AddTokens(absl::Duration now, int tokens, RequestOutcome& outcome) {
  outcome.output_tokens += tokens;
  if (outcome.first_token == absl::InfiniteDuration()) {
    outcome.first_token = now;
    // Those that came with the first one have no time between them.
    if (tokens > 1) outcome.gaps.push_back({absl::ZeroDuration(), tokens - 1});
  } else {
    outcome.gaps.push_back({(now - outcome.last_token) / tokens, tokens});
  }
  outcome.last_token = now;
}

void SetEnd(const absl::Status& status, ClientStop stop,
            RequestOutcome& outcome) {
  if (status.ok()) {
    outcome.kind = EndKind::kFinished;
    return;
  }
  const ErrorDetails details = DecodeErrorDetails(status);
  const std::string& from_server = details.reason;
  outcome.retry_delay = details.retry_delay;
  outcome.reason = from_server.empty() ? absl::StatusCodeToString(status.code())
                                       : from_server;
  const bool nothing_came = outcome.first_token == absl::InfiniteDuration();
  if (absl::IsCancelled(status) && stop.cancelled) {
    outcome.kind = EndKind::kCancelled;
  } else if (absl::IsCancelled(status) && stop.interrupted) {
    outcome.kind = EndKind::kInterrupted;
  } else if (nothing_came && from_server == "DEADLINE_TOO_SHORT") {
    // Said before anything ran.
    outcome.kind = EndKind::kRefused;
  } else if (absl::IsDeadlineExceeded(status)) {
    outcome.kind = EndKind::kExpired;
  } else if (nothing_came && !from_server.empty() &&
             !absl::IsInternal(status)) {
    outcome.kind = EndKind::kRefused;
  } else {
    outcome.kind = EndKind::kFailed;
  }
}

}  // namespace sparseserve
