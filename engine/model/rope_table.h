#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/tensor/buffer.h"

namespace sparseserve {

// Rotary position embedding (Su et al., arXiv 2104.09864): at position p the
// pair of elements (2 i, 2 i + 1) of a head turns by p * base^(-2 i /
// head_dim).
struct RopeTable {
  Buffer cosines;  // float [positions, head_dim / 2]
  Buffer sines;    // float [positions, head_dim / 2]
};

// Angles are computed in double and rounded once.
absl::StatusOr<RopeTable> BuildRopeTable(Backend& backend, int32_t positions,
                                         int32_t head_dim, double base);

}  // namespace sparseserve
