#pragma once

// For the .cc files that are compiled once per SIMD target. Include after
// hwy/highway.h.

#include <cstddef>

#include "engine/backend/cpu/simd_level.h"
#include "hwy/highway.h"

namespace sparseserve::cpu {

// Index of the best path up to `level` in a table made by HWY_EXPORT.
inline size_t DispatchIndex(SimdLevel level) {
  // With a single compiled target the table has one entry.
  if constexpr ((HWY_TARGETS & (HWY_TARGETS - 1)) == 0) return 0;
  hwy::ChosenTarget chosen;
  chosen.Update(HighwayTargets(level));
  return chosen.GetIndex();
}

}  // namespace sparseserve::cpu
