#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/model/model_config.h"
#include "engine/tensor/buffer.h"

namespace sparseserve {

// Rotary position embedding (Su et al., arXiv 2104.09864): at position p the
// i-th pair of elements of a head turns by p * f(i); see RopeFrequencies.
struct RopeTable {
  Buffer cosines;  // float [positions, head_dim / 2]
  Buffer sines;    // float [positions, head_dim / 2]
};

// Angles are computed in double and rounded once. REQUIRES: the frequencies are
// those of heads of `head_dim`, divisors are not 0.
absl::StatusOr<RopeTable> BuildRopeTable(Backend& backend, int32_t positions,
                                         int32_t head_dim,
                                         const RopeFrequencies& frequencies);

}  // namespace sparseserve
