#pragma once

// Quantised blocks as GGUF stores them (ggml's block_q4_0, block_q4_1,
// block_q8_0): 32 consecutive elements of a row, little-endian.

#include <cstdint>

#include "engine/tensor/dtype.h"

namespace sparseserve {

inline constexpr int kQuantBlockElements = 32;

// x[i] = d * (q[i] - 8); quants[j] holds q[j] in its low and q[j + 16] in its
// high nibble.
struct BlockQ4_0 {
  uint16_t d;  // IEEE half
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// x[i] = d * q[i] + m; nibbles as in BlockQ4_0.
struct BlockQ4_1 {
  uint16_t d;  // IEEE half
  uint16_t m;  // IEEE half
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// x[i] = d * q[i].
struct BlockQ8_0 {
  uint16_t d;  // IEEE half
  int8_t quants[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

float HalfToFloat(uint16_t half);
float BFloat16ToFloat(uint16_t value);
// Rounds to nearest, ties to even; NaN stays NaN.
uint16_t FloatToBFloat16(float value);

// Expands `count` elements (a multiple of BlockElements(dtype)) starting at a
// block border into float. Portable and exact: the reference for fast paths.
void DequantizeRow(DType dtype, const void* source, int64_t count,
                   float* destination);

}  // namespace sparseserve
