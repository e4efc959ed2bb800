#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace sparseserve {

// How a request of a run ended.
enum class EndKind {
  kFinished,
  // The server would not take it: nothing was generated.
  kRefused,
  // Its deadline passed.
  kExpired,
  // The client cancelled it, as planned.
  kCancelled,
  // The run was ended while it ran.
  kInterrupted,
  kFailed,
};

// What became of one request. Times are since the run began.
struct RequestOutcome {
  int64_t index = 0;
  EndKind kind = EndKind::kFailed;
  // Unless it finished: the server's reason, such as "QUEUE_FULL", else the
  // name of the status code.
  std::string reason;
  // When the server said that another try may succeed.
  std::optional<absl::Duration> retry_delay;
  absl::Duration sent;
  // Infinite if none came.
  absl::Duration first_token = absl::InfiniteDuration();
  absl::Duration last_token = absl::InfiniteDuration();
  absl::Duration ended;
  // Between tokens after the first. Tokens that came in one message count as
  // evenly spaced since the message before it.
  struct Gap {
    absl::Duration time;
    int tokens = 0;
  };
  std::vector<Gap> gaps;
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;
  int output_tokens = 0;
};

// Notes `tokens` (above 0) that came at `now`.
void AddTokens(absl::Duration now, int tokens, RequestOutcome& outcome);

// What a client did to a call before it ended.
struct ClientStop {
  bool cancelled = false;
  bool interrupted = false;
};

// Fills kind and reason from the call's status. REQUIRES: the tokens that came
// were added.
void SetEnd(const absl::Status& status, ClientStop stop,
            RequestOutcome& outcome);

}  // namespace sparseserve
