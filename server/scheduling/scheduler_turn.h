#pragma once

#include "absl/time/time.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/step_budget.h"

namespace sparseserve {

// Waiting sequences that one turn ends or marks while others run: what is left
// of many has to wait for turns to come.
inline constexpr int kSettledInATurn = 32;

// How far the composition of one step has come: for the Scheduler's own files.
struct Scheduler::Turn {
  absl::Time now;
  StepBudget budget;
  // Late work has no more than its share, for there is other work.
  bool is_capped;
  bool may_start = true;
  bool may_start_streams = true;  // those with a target for each token
  int to_settle = kSettledInATurn;
  int late_tokens = 0;
  int decodes = 0;
  int long_chunks = 0;  // of the step
  int other_chunks = 0;
  bool others_want = false;  // some that are not long
};

}  // namespace sparseserve
