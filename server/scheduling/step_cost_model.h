#pragma once

#include <array>
#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace sparseserve {

// What a step does, as far as its time depends on it.
struct StepWork {
  double decode_rows = 0;
  double prompt_rows = 0;
  // KV blocks that one head's rows visit: a decode row those up to its own, 64
  // prompt rows likewise. Scaled by density where less is visited.
  double decode_blocks = 0;
  double prompt_blocks = 0;

  StepWork& operator+=(const StepWork& other);
  StepWork& operator-=(const StepWork& other);
  StepWork operator*(double factor) const;
};

// How long steps take, learned from steps that ran: a constant and a
// coefficient for each field of StepWork, none negative. Least squares over
// relative errors, older steps fading; a step that took much longer than
// expected counts little (Huber, "Robust Estimation of a Location Parameter",
// 1964), and the coefficients solve the normal equations under their bounds by
// coordinate descent (Franc, Hlavac and Navara, "Sequential coordinate-wise
// algorithm for non-negative least squares", 2005). Reads no clock. Serving
// thread only.
class StepCostModel {
 public:
  // Nothing is predicted before so many steps.
  static constexpr int kLeastSteps = 16;

  StepCostModel();

  // A step with `work` took `duration`; what is not positive is ignored.
  void Observe(const StepWork& work, absl::Duration duration);

  bool is_ready() const { return steps_ >= kLeastSteps; }
  // REQUIRES: is_ready(), for these.
  absl::Duration Predict(const StepWork& work) const;
  // What 95 % of such steps do not exceed, going by the latest ones.
  absl::Duration PredictP95(const StepWork& work) const;
  // PredictP95() / Predict(), at least 1.
  double margin() const { return margin_; }

 private:
  static constexpr int kFeatures = 5;
  using Features = std::array<double, kFeatures>;

  static Features FeaturesOf(const StepWork& work);
  double Seconds(const Features& features) const;
  void Remember(double relative_error);
  void Solve();

  int steps_ = 0;
  // Normal equations of the weighted, fading steps.
  std::array<Features, kFeatures> gram_ = {};
  Features moment_ = {};
  Features coefficients_ = {};
  // Of the latest steps: duration / prediction - 1. A ring.
  std::vector<double> errors_;
  int next_error_ = 0;
  double spread_ = 0;  // their median size
  double margin_ = 1;
};

}  // namespace sparseserve
