#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// What a pattern of Swin is applied to: a grid of patches in row-major order.
struct SwinGrid {
  int32_t heads = 0;
  int32_t height = 0;  // before padding
  int32_t width = 0;
  // [(2 * window - 1)^2, heads]: the bias of relative positions, by the query's
  // row less the key's, then column; `window` is the pattern's.
  std::vector<float> bias_table;
};

// How transformers cuts a grid: it makes the window no larger than the grid and
// shifts only if there are several windows both ways.
struct SwinWindows {
  int32_t window = 0;
  int32_t shift = 0;
  int32_t height = 0;  // of the padded grid, a multiple of the window
  int32_t width = 0;
};
// REQUIRES: CheckEncoderPattern() is OK, and the sides are at least 1.
SwinWindows WindowsOf(const SwinPattern& pattern, int32_t height,
                      int32_t width);

// One pass over the padded grid's places, whose padding is seen like any other
// place. Each window fills whole blocks of slots, so that its list is a few
// blocks, and all windows cut by the same borders share their bias tiles: the
// table's, and -100 between places that were no neighbours before the shift.
// INVALID_ARGUMENT names what does not fit; a window that is cut to the grid
// has no bias table, as in transformers.
absl::StatusOr<AttentionPasses> SwinPasses(const SwinPattern& pattern,
                                           const SwinGrid& grid);

}  // namespace sparseserve
