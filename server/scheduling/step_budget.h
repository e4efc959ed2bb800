#pragma once

#include "absl/time/time.h"
#include "server/scheduling/sequence.h"
#include "server/scheduling/step_cost_model.h"

namespace sparseserve {

// What is left of one step while it is composed: rows, and time where somebody
// minds how long it takes. Borrows `cost`.
class StepBudget {
 public:
  StepBudget(const StepCostModel& cost, int rows);

  // 95 % of the steps are to take at most `time`, as far as prompts decide it.
  // Without effect until the costs of steps are known.
  void LimitTime(absl::Duration time) { time_ = time; }

  int rows_left() const { return rows_left_; }
  // What was taken so far.
  const StepWork& work() const { return work_; }

  // The longest next chunk of at most `most` tokens that rows and time allow; 0
  // if there is none.
  int Fit(const Sequence& sequence, int most) const;
  // REQUIRES: 0 < tokens <= rows_left().
  void Take(const Sequence& sequence, int tokens);
  // Undoes Take() of the same.
  void GiveBack(const Sequence& sequence, int tokens);

 private:
  bool FitsTime(const StepWork& work) const;

  const StepCostModel& cost_;
  int rows_left_;
  absl::Duration time_ = absl::InfiniteDuration();
  StepWork work_;
};

}  // namespace sparseserve
