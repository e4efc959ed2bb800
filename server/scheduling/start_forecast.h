#pragma once

#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/scheduling/backlog.h"
#include "server/scheduling/drain_rate.h"
#include "server/scheduling/feasibility.h"
#include "server/scheduling/runner.h"
#include "server/scheduling/step_cost_model.h"

namespace sparseserve {

// When sequences will have their first token, going by what runs, what steps
// cost and how fast places became free lately. Serving thread only.
class StartForecast {
 public:
  struct Options {
    int max_step_tokens = 0;
    int max_running_sequences = 0;
    // What a step may take while answers are being written.
    absl::Duration step_time_target;
  };
  // Borrows `cost`.
  StartForecast(const Options& options, const StepCostModel& cost);

  // Takes in what runs now; what is told below holds until that changes.
  void Look(absl::Span<const std::unique_ptr<Runner>> running, absl::Time now);
  // A step with output ended.
  void OutputTook(absl::Duration step);
  // One started for the first time.
  void Started(absl::Time now) { starts_.Count(1, now); }

  // What a step may take, as far as prompts decide it: the step time target or
  // what an answer that is being written has for each token, if that is less
  // and output alone leaves it possible: its time_per_output_token, or of what
  // is left until its caller's deadline each of its LeastOutput() tokens' part.
  // Infinite while none is being written.
  absl::Duration time_limit() const { return time_limit_; }
  // Rows of prompts that a step has room for within that.
  int prompt_rows() const { return prompt_rows_; }
  // What the running prompts that go before `rank` still have to run.
  StepWork PromptsBefore(const Rank& rank) const;

  // Behind `ahead`, in which running prompts may be counted. `is_late`: so
  // nobody is stopped to make room for it. Nothing as long as nothing is known
  // of steps, as below.
  std::optional<FirstTokenEstimate> OfWaiting(const Sequence& sequence,
                                              const Backlog& ahead,
                                              bool is_late,
                                              absl::Time now) const;
  // Of one that has its place, if it comes next.
  std::optional<FirstTokenEstimate> OfRunning(const Sequence& sequence) const;

 private:
  struct Prompt {
    Rank rank;
    StepWork left;
  };

  absl::Duration PlaceWait(const Backlog& ahead, bool is_late,
                           absl::Time now) const;
  FirstTokenEstimate Estimate(const Sequence& sequence, const StepWork& prompts,
                              absl::Duration place_wait) const;

  const Options options_;
  const StepCostModel& cost_;
  DrainRate starts_;

  absl::Duration token_lately_ = absl::ZeroDuration();

  // Of what runs.
  StepWork decodes_;  // one token of each answer
  StepWork coming_;   // and of each prompt, once it is an answer
  std::vector<Prompt> prompts_;
  // Output that each can still come to write, least first, if all places are
  // taken.
  std::vector<int> outputs_left_;
  double all_output_left_ = 0;
  bool has_place_ = true;
  bool may_stop_late_ = false;  // somebody's place can be had
  absl::Duration time_limit_ = absl::InfiniteDuration();
  int prompt_rows_;
};

}  // namespace sparseserve
