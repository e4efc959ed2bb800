#include "server/scheduling/first_token_forecast.h"

#include <algorithm>
#include <cmath>

namespace sparseserve {

int PromptRowsWithin(const StepCostModel& cost, const StepWork& decodes,
                     absl::Duration time, int least, int most) {
  const absl::Duration left = time - cost.PredictP95(decodes);
  StepWork page = {.prompt_rows = 64, .prompt_blocks = 1};
  page += decodes;
  const absl::Duration each =
      (cost.PredictP95(page) - cost.PredictP95(decodes)) / 64;
  if (each <= absl::ZeroDuration()) return most;
  const double rows = absl::FDivDuration(left, each);
  return static_cast<int>(std::clamp<double>(rows, least, most));
}

absl::Duration ForecastFirstToken(const StepCostModel& cost,
                                  const LoadAhead& load, const StepWork& own) {
  const double rows = load.prompts.prompt_rows + own.prompt_rows;
  const double steps = std::max(1.0, std::ceil(rows / load.prompt_rows));
  StepWork all = load.prompts;
  all += own;
  all += load.decodes * steps;
  // The constant part comes with every step.
  const absl::Duration computed =
      cost.Predict(all) + cost.Predict({}) * (steps - 1);
  StepWork alone = own;
  alone += load.decodes;
  return std::max(computed, load.place_wait + cost.Predict(alone));
}

}  // namespace sparseserve
