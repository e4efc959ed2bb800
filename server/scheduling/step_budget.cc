#include "server/scheduling/step_budget.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {

StepBudget::StepBudget(const StepCostModel& cost, int rows)
    : cost_(cost), rows_left_(rows) {}

bool StepBudget::FitsTime(const StepWork& work) const {
  if (time_ == absl::InfiniteDuration() || !cost_.is_ready()) return true;
  StepWork all = work_;
  all += work;
  return cost_.PredictP95(all) <= time_;
}

int StepBudget::Fit(const Sequence& sequence, int most) const {
  const int rows = std::min(most, rows_left_);
  const auto fitting = [&](int budget) {
    const int tokens = sequence.NextTokens(budget);
    return tokens > 0 && FitsTime(sequence.WorkOf(tokens)) ? tokens : 0;
  };
  if (const int all = fitting(rows); all > 0) return all;
  // Chunks end on pages' borders, and more of them take longer: between pages
  // that fit and pages that do not.
  int best = 0;
  int low = 0;
  int high = (rows + kPageTokens - 1) / kPageTokens;
  while (high - low > 1) {
    const int pages = (low + high) / 2;
    const int budget = pages * kPageTokens;
    const int tokens = fitting(budget);
    // A chunk that is too short for a border says nothing of time.
    if (tokens > 0 || sequence.NextTokens(budget) == 0) {
      low = pages;
      best = std::max(best, tokens);
    } else {
      high = pages;
    }
  }
  return best;
}

void StepBudget::Take(const Sequence& sequence, int tokens) {
  SPARSESERVE_CHECK(tokens > 0 && tokens <= rows_left_);
  rows_left_ -= tokens;
  work_ += sequence.WorkOf(tokens);
}

void StepBudget::GiveBack(const Sequence& sequence, int tokens) {
  rows_left_ += tokens;
  work_ -= sequence.WorkOf(tokens);
}

}  // namespace sparseserve
