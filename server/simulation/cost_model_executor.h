#pragma once

#include <cstdint>
#include <random>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/step.h"
#include "server/scheduling/step_cost_model.h"

namespace sparseserve {

// A device that computes nothing and says how long a step would have taken:
// dense attention, by given costs. One thread.
class CostModelExecutor : public StepExecutor {
 public:
  struct Options {
    StepCosts costs;
    // Standard deviation of a step's time over its mean, 0 to 1; the factor's
    // distribution is log-normal with mean 1.
    double noise = 0;
    uint64_t seed = 1;
    int vocab_size = 1;
  };
  explicit CostModelExecutor(const Options& options);

  // Any token of the vocabulary for each slice that wants one.
  absl::StatusOr<StepResult> Step(const StepPlan& plan) override;

  // Of the latest step.
  absl::Duration duration() const { return duration_; }
  // Tokens that all steps ran.
  int64_t rows() const { return rows_; }
  int64_t steps() const { return steps_; }

 private:
  double Noise();

  const Options options_;
  std::mt19937_64 random_;
  absl::Duration duration_;
  int64_t rows_ = 0;
  int64_t steps_ = 0;
};

}  // namespace sparseserve
