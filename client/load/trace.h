#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sparseserve {

// One request of a recorded trace.
struct TraceRequest {
  absl::Duration arrival;  // since the trace began
  int prompt_tokens = 0;
  int output_tokens = 0;
};

// Reads CSV with the header "arrival_s,prompt_tokens,output_tokens" and a
// request on each line: times in seconds that do not go back, lengths of 1 to
// 16,777,216 tokens. Empty lines and those that begin with # are skipped.
// INVALID_ARGUMENT names `name`, the line and the value.
absl::StatusOr<std::vector<TraceRequest>> ParseTrace(absl::string_view text,
                                                     absl::string_view name);

}  // namespace sparseserve
