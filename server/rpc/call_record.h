#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/request.h"

namespace sparseserve {

// One call, from its first byte to its log line. Written while the call's
// method runs, read only from then on.
struct CallRecord {
  std::string method;  // "sparseserve.v1.InferenceService/Generate"
  std::string request_id;
  std::string traceparent;  // well-formed or empty
  std::string caller;       // whose quota it uses; empty: nobody's
  std::string model;        // resource name, once known
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();  // the caller's own

  // Of calls to InferenceService.
  std::optional<Operation> operation;
  LatencyTarget metadata_target;
  LatencyTarget target;  // what counts, once the request was found good
  // Of generations, once the request was found good.
  std::string plan;     // as PatternDecision has it
  std::string pattern;  // ChoiceName()
};

}  // namespace sparseserve
