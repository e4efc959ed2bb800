#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sparseserve {

// One request of a recorded trace.
struct TracedRequest {
  absl::Duration arrival;  // since the trace began
  int prompt_tokens = 0;
  int output_tokens = 0;
};

// Reads CSV with the header "arrival_s,prompt_tokens,output_tokens" and a
// request on each line, in order of arrival: what `sparseserve load --trace`
// reads. INVALID_ARGUMENT names `name`, the line and the value.
absl::StatusOr<std::vector<TracedRequest>> ParseTrace(std::string_view text,
                                                      std::string_view name);

}  // namespace sparseserve
