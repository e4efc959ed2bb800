#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/scheduling/request.h"
#include "server/security/access_policy.h"

namespace sparseserve {

// One call, from its first byte to its log line. Written while the call's
// method runs, read only from then on.
struct CallRecord {
  std::string method;  // "sparseserve.v1.InferenceService/Generate"
  std::string request_id;
  std::string traceparent;  // well-formed or empty
  std::string caller;       // whose quota it uses; empty: nobody's
  std::string identity;     // of the caller, if proven; empty: it was not
  std::shared_ptr<const CallerRule> rule;  // the policy's; null without one
  // Whether the call may go on; filled in before anything is read.
  absl::Status access;
  std::string model;  // resource name, once known
  // Of calls that operators make: a line of the audit log, and who sent it.
  bool is_audited = false;
  std::string peer;
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
