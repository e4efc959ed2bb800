#include "server/simulation/cost_model_executor.h"

#include <cmath>
#include <numbers>

#include "server/simulation/random_draws.h"

namespace sparseserve {
namespace {

StepWork WorkOf(const StepSlice& slice) {
  const int rows = static_cast<int>(slice.tokens.size());
  const double seen = SeenBlocks(slice.first_position, rows);
  if (slice.phase == Phase::kPrefill) {
    return {.prompt_rows = static_cast<double>(rows),
            .prompt_blocks = seen * rows / kPageTokens};
  }
  if (rows == 1) return {.decode_rows = 1, .decode_blocks = seen};
  // Output that runs anew: its rows choose each for itself.
  return {.prompt_rows = static_cast<double>(rows),
          .decode_blocks = seen * rows};
}

}  // namespace

CostModelExecutor::CostModelExecutor(const Options& options)
    : options_(options), random_(options.seed) {}

absl::StatusOr<StepResult> CostModelExecutor::Step(const StepPlan& plan) {
  StepWork work;
  StepResult result;
  result.slices.resize(plan.slices.size());
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const StepSlice& slice = plan.slices[i];
    work += WorkOf(slice);
    rows_ += static_cast<int64_t>(slice.tokens.size());
    if (!slice.wants_token) continue;
    result.slices[i].token = static_cast<TokenId>(
        random_() % static_cast<uint64_t>(options_.vocab_size));
  }
  ++steps_;
  duration_ = absl::Seconds(options_.costs.Seconds(work) * Noise());
  result.times.total = absl::ToDoubleSeconds(duration_);
  return result;
}

// Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
double CostModelExecutor::Noise() {
  if (options_.noise == 0) return 1;
  const double variance = std::log1p(options_.noise * options_.noise);
  const double radius = std::sqrt(-2 * std::log1p(-DrawUniform(random_)));
  const double normal =
      radius * std::cos(2 * std::numbers::pi * DrawUniform(random_));
  return std::exp(std::sqrt(variance) * normal - variance / 2);
}

}  // namespace sparseserve
