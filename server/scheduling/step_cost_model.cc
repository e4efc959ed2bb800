#include "server/scheduling/step_cost_model.h"

#include <algorithm>
#include <cmath>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

// A step's weight falls to 1/e after so many.
constexpr double kMemorySteps = 1000;
constexpr size_t kErrors = 256;
// Quantiles are looked up anew after so many steps, and after each of as many
// first ones.
constexpr int kRefreshSteps = 16;
// An error beyond so many spreads counts as if it were this large.
constexpr double kHuberSpreads = 3;
constexpr double kLeastSpread = 0.02;
constexpr int kSweeps = 12;

// The nearest rank of `share`.
double Quantile(std::vector<double>& values, double share) {
  const auto rank =
      std::min(values.size() - 1,
               static_cast<size_t>(share * static_cast<double>(values.size())));
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

}  // namespace

StepWork& StepWork::operator+=(const StepWork& other) {
  decode_rows += other.decode_rows;
  prompt_rows += other.prompt_rows;
  decode_blocks += other.decode_blocks;
  prompt_blocks += other.prompt_blocks;
  return *this;
}

StepWork& StepWork::operator-=(const StepWork& other) {
  return *this += other * -1;
}

StepWork StepWork::operator*(double factor) const {
  return {factor * decode_rows, factor * prompt_rows, factor * decode_blocks,
          factor * prompt_blocks};
}

StepCostModel::StepCostModel() { errors_.reserve(kErrors); }

StepCostModel::Features StepCostModel::FeaturesOf(const StepWork& work) {
  return {1, work.decode_rows, work.prompt_rows, work.decode_blocks,
          work.prompt_blocks};
}

double StepCostModel::Seconds(const Features& features) const {
  double seconds = 0;
  for (int i = 0; i < kFeatures; ++i) {
    seconds += coefficients_[i] * features[i];
  }
  return seconds;
}

void StepCostModel::Observe(const StepWork& work, absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (!(seconds > 0) || !std::isfinite(seconds)) return;
  const Features features = FeaturesOf(work);
  double weight = 1;
  if (is_ready()) {
    const double predicted = Seconds(features);
    const double error = predicted > 0 ? seconds / predicted - 1 : 1;
    const double bound = kHuberSpreads * std::max(spread_, kLeastSpread);
    weight = std::min(1.0, bound / std::max(std::abs(error), 1e-9));
    Remember(error);
  }
  ++steps_;
  // Errors are relative to what the step took.
  weight /= seconds * seconds;
  const double kept = 1 - 1 / kMemorySteps;
  for (int i = 0; i < kFeatures; ++i) {
    for (int j = 0; j < kFeatures; ++j) {
      gram_[i][j] = kept * gram_[i][j] + weight * features[i] * features[j];
    }
    moment_[i] = kept * moment_[i] + weight * features[i] * seconds;
  }
  Solve();
}

void StepCostModel::Remember(double relative_error) {
  if (errors_.size() < kErrors) {
    errors_.push_back(relative_error);
  } else {
    errors_[next_error_] = relative_error;
    next_error_ = (next_error_ + 1) % static_cast<int>(kErrors);
  }
  if (errors_.size() > kRefreshSteps && steps_ % kRefreshSteps != 0) return;
  std::vector<double> sorted = errors_;
  margin_ = 1 + std::max(0.0, Quantile(sorted, 0.95));
  for (double& error : sorted) error = std::abs(error);
  spread_ = Quantile(sorted, 0.5);
}

// Each coefficient in turn at its best for the others'. The scale of a feature
// is its own diagonal, so no step size is needed.
void StepCostModel::Solve() {
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (int i = 0; i < kFeatures; ++i) {
      if (gram_[i][i] <= 0) continue;
      double rest = moment_[i];
      for (int j = 0; j < kFeatures; ++j) {
        if (j != i) rest -= gram_[i][j] * coefficients_[j];
      }
      coefficients_[i] = std::max(0.0, rest / gram_[i][i]);
    }
  }
}

absl::Duration StepCostModel::Predict(const StepWork& work) const {
  SPARSESERVE_CHECK(is_ready());
  return absl::Seconds(Seconds(FeaturesOf(work)));
}

absl::Duration StepCostModel::PredictP95(const StepWork& work) const {
  return Predict(work) * margin_;
}

}  // namespace sparseserve
