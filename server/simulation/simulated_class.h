#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/scheduling/request.h"

namespace sparseserve {

// Requests that ask for the same things.
struct SimulatedClass {
  std::string name = "all";
  double share = 1;  // of all requests, relative to the other classes' shares
  LatencyTarget target;
  // After arrival: the caller's deadline.
  absl::Duration deadline = absl::InfiniteDuration();
  int priority = 0;
  int prefix_tokens = 0;  // first tokens that all its prompts share
};

// "NAME[:KEY=VALUE,...]" for each class, separated by ";", with the keys share,
// ttft, tpot, total, deadline, on_miss (dense, degrade, reject), priority and
// prefix_tokens; such as "interactive:share=0.7,ttft=2s,tpot=200ms;batch".
// INVALID_ARGUMENT names the key and value that cannot be read.
absl::StatusOr<std::vector<SimulatedClass>> ParseClasses(std::string_view text);

}  // namespace sparseserve
