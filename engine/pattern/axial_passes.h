#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// What a pattern of axial attention is applied to: a grid of places in
// row-major order.
struct AxialGrid {
  int32_t heads = 0;
  std::vector<int32_t> shape;  // of one to 8 axes, each at least 1
  std::vector<bool> is_real;   // [places]; false for padding
};

// One pass over the grid's lines along the axis, one after another: a line is a
// run of slots, and lines shorter than a block share one. All heads share their
// lists. Where a layer adds several axes up, each has projections of its own:
// run each, and add behind the output projections. INVALID_ARGUMENT names what
// does not fit.
absl::StatusOr<AttentionPasses> AxialPasses(const AxialPattern& pattern,
                                            const AxialGrid& grid);

}  // namespace sparseserve
