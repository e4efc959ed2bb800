#pragma once

// Row operations of the transformer. Any length; pointers need no alignment.

#include <cstdint>

#include "engine/backend/cpu/simd_level.h"

namespace sparseserve::cpu {

struct ElementwiseKernels {
  // output[i] = input[i] / sqrt(mean(input^2) + epsilon) * gain[i]; `output`
  // may be `input`.
  void (*rms_norm)(const float* input, const float* gain, float epsilon,
                   int64_t columns, float* output);
  // Likewise, but output[i] +=
  void (*add_rms_norm)(const float* input, const float* gain, float epsilon,
                       int64_t columns, float* output);
  // output[i] = silu(gate[i]) * up[i]
  void (*swiglu)(const float* gate, const float* up, int64_t columns,
                 float* output);
  // output[i] = gelu(gate[i]) * up[i], by tanh
  void (*geglu)(const float* gate, const float* up, int64_t columns,
                float* output);
  // Rotates pair (2i, 2i + 1) by the angle of cosines[i], sines[i].
  // `output` may be `input`.
  void (*rotate_pairs)(const float* input, const float* cosines,
                       const float* sines, int64_t pairs, float* output);
  // Likewise pair (i, i + pairs).
  void (*rotate_halves)(const float* input, const float* cosines,
                        const float* sines, int64_t pairs, float* output);
  // values[i] += addend[i]
  void (*add)(const float* addend, int64_t count, float* values);
  // values[i] += minuend[i] - subtrahend[i]; `values` may be either.
  void (*add_difference)(const float* minuend, const float* subtrahend,
                         int64_t count, float* values);
  // values[i] *= factor
  void (*scale)(float factor, int64_t count, float* values);
  // values[i] = cap * tanh(values[i] / cap)
  void (*soft_cap)(float cap, int64_t count, float* values);
  // Rounds to nearest even; NaN stays NaN.
  void (*to_bfloat16)(const float* input, int64_t count, uint16_t* output);
};

// The best path up to `level`.
const ElementwiseKernels& ElementwiseKernelsFor(SimdLevel level);

}  // namespace sparseserve::cpu
