#include "server/policy/plan_profile.h"

namespace sparseserve {

const PlanQuality* CalibratedPlan::QualityOf(Phase phase, int tokens) const {
  for (const PlanQuality& band : quality[static_cast<int>(phase)]) {
    if (tokens >= band.min_tokens && tokens <= band.max_tokens) return &band;
  }
  return nullptr;
}

}  // namespace sparseserve
