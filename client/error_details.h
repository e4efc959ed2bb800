#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace sparseserve {

// What a server said about an error besides code and message.
struct ErrorDetails {
  // One part of the request that is wrong.
  struct FieldViolation {
    // Path from the request, such as "options.sampling.top_p".
    std::string field;
    std::string description;
  };

  // For programs: UPPER_SNAKE_CASE and the system that defines it, such as
  // "QUEUE_FULL" of "sparseserve.dev". Empty if the error did not come from a
  // server's code, for example because none could be reached.
  std::string reason;
  std::string domain;
  std::map<std::string, std::string> metadata;

  std::vector<FieldViolation> field_violations;

  // When a retry may succeed; absent if the server did not say.
  std::optional<absl::Duration> retry_delay;
};

// The details of an error that a Client returned. Empty details for any other
// status, and for details that cannot be read.
ErrorDetails DecodeErrorDetails(const absl::Status& status);

// One or more lines for a person: code, message, the violations and reason that
// the message does not already name, and when to retry.
std::string DescribeError(const absl::Status& status);

}  // namespace sparseserve
