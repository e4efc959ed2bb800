#pragma once

#include "server/scheduling/scheduler.h"

namespace sparseserve {

// How far the composition of one step has come: for the Scheduler's own files.
struct Scheduler::Turn {
  absl::Time now;
  StepBudget budget;
  // Late work has no more than its share, for there is other work.
  bool is_capped;
  bool may_start = true;
  bool may_start_streams = true;  // those with a target for each token
  int late_tokens = 0;
  int long_prompts = 0;  // half-way
  int long_chunks = 0;   // of the step
  int other_chunks = 0;
  bool others_want = false;  // some that are not long
};

}  // namespace sparseserve
