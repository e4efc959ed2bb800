#pragma once

#include "absl/time/time.h"

// What the server reports of plans: names of attention that the policy chooses
// and the quality guard watches. Wherever a plan is an int, 0 is dense and
// i + 1 is PlanProfile::plans[i].

namespace sparseserve {

// A target that a request named, whose plan was chosen by it.
struct PlanTargetSample {
  int plan = 0;
  int prompt_tokens = 0;
  bool met = false;
  absl::Duration slack;  // what was left of the target; negative: late by that
};

enum class PredictedQuantity { kTimeToFirstToken, kTimePerOutputToken };

// Certified: calibrated and watched long enough to trust. Unproven: calibrated
// and not yet watched. Demoted: not chosen.
enum class GuardState { kCertified, kUnproven, kDemoted };
enum class DemotionCause { kRecall, kDivergence, kNumeric };
enum class RedoCause { kRecall, kNumeric };
// Of a dense run beside a request's own: its divergence is within the plan's
// bound or above it, or the run did not end.
enum class ShadowOutcome { kWithin, kAbove, kFailed };

}  // namespace sparseserve
