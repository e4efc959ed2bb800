#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/request.h"

namespace sparseserve {

// One call, from its first byte to its log line. Written while the call is
// taken in, read only once its request is queued.
struct CallRecord {
  std::string method;  // "sparseserve.v1.InferenceService/Generate"
  std::string request_id;
  std::string trace_id;  // empty without a traceparent
  std::string model;     // resource name, once known
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();  // the caller's own

  // Of generations.
  Operation operation = Operation::kStreamGenerate;
  std::optional<int> prompt_tokens;
  LatencyTarget target;
};

}  // namespace sparseserve
