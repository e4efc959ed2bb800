#pragma once

#include "absl/time/time.h"
#include "server/scheduling/step_cost_model.h"

namespace sparseserve {

// What stands between a request and its first token.
struct LoadAhead {
  StepWork prompts;     // that run before its own is done
  StepWork decodes;     // that each step carries besides
  int prompt_rows = 1;  // that a step carries of prompts, at least 1
  // Until it may start at all, for want of a place.
  absl::Duration place_wait = absl::ZeroDuration();
};

// Rows of prompts that a step which carries `decodes` has room for, if it is to
// take `time`; from `least` to `most`. REQUIRES: cost.is_ready().
int PromptRowsWithin(const StepCostModel& cost, const StepWork& decodes,
                     absl::Duration time, int least, int most);

// How long the first token of a prompt of `own` work takes, as far as what is
// known now decides it. REQUIRES: cost.is_ready().
absl::Duration ForecastFirstToken(const StepCostModel& cost,
                                  const LoadAhead& load, const StepWork& own);

}  // namespace sparseserve
