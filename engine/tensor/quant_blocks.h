#pragma once

// Quantised blocks as GGUF stores them (ggml's block_q4_0, block_q4_K, ...),
// little-endian: 32 consecutive elements of a row, or 256 in the formats whose
// names end in K.

#include <cstdint>

#include "engine/tensor/dtype.h"

namespace sparseserve {

inline constexpr int kQuantBlockElements = 32;
inline constexpr int kSuperBlockElements = 256;

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

// x[i] = d * (q[i] - 16). Low nibbles as in BlockQ4_0; bit i of `high_bits`, in
// little-endian order, is the fifth bit of q[i].
struct BlockQ5_0 {
  uint16_t d;  // IEEE half
  uint8_t high_bits[4];
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

// x[i] = d * q[i] + m; bits as in BlockQ5_0.
struct BlockQ5_1 {
  uint16_t d;  // IEEE half
  uint16_t m;  // IEEE half
  uint8_t high_bits[4];
  uint8_t quants[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

// Eight parts of 32 elements: x[i] = d * scale * q[i] - dmin * min, with a
// scale and a min of six bits for each part. quants[32 * j + i] holds q[i] of
// part 2j in its low and of part 2j + 1 in its high nibble.
struct BlockQ4_K {
  uint16_t d;          // IEEE half
  uint16_t dmin;       // IEEE half
  uint8_t scales[12];  // packed: see UnpackScales
  uint8_t quants[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// As BlockQ4_K; bit p of high_bits[i] is the fifth bit of q[i] of part p.
struct BlockQ5_K {
  uint16_t d;     // IEEE half
  uint16_t dmin;  // IEEE half
  uint8_t scales[12];
  uint8_t high_bits[32];
  uint8_t quants[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

// Sixteen parts of 16 elements, each with a signed scale: x[i] = d * scale *
// (q[i] - 32). Of 128 elements, in groups g of 32, quants[i + 32 * (g % 2)] has
// the low four bits, in its low nibble for g < 2 and its high one above, and
// high_bits[i] the other two, from bit 2g on. The second 128 follow likewise.
struct BlockQ6_K {
  uint8_t quants[128];
  uint8_t high_bits[64];
  int8_t scales[16];
  uint16_t d;  // IEEE half
};
static_assert(sizeof(BlockQ6_K) == 210);

// Scales and mins of the eight parts of a BlockQ4_K or BlockQ5_K, each 0
// ... 63.
struct PartScales {
  uint8_t scales[8];
  uint8_t mins[8];
};
PartScales UnpackScales(const uint8_t (&packed)[12]);

float HalfToFloat(uint16_t half);
float BFloat16ToFloat(uint16_t value);
// Rounds to nearest, ties to even; NaN stays NaN.
uint16_t FloatToBFloat16(float value);

// Expands `count` elements (a multiple of BlockElements(dtype)) starting at a
// block border into float. Portable and exact: the reference for fast paths.
void DequantizeRow(DType dtype, const void* source, int64_t count,
                   float* destination);

}  // namespace sparseserve
