#pragma once

// Attention over KV in bf16 whose two products run on AMX tiles.

#include <cstdint>

#include "engine/backend/cpu/attention_kernels.h"

namespace sparseserve::cpu {

// Blocks whose scores stand side by side, counted from position 0: a row's
// weights are taken from one maximum over them.
inline constexpr int kAmxBlocks = 4;
// Rows of two tiles.
inline constexpr int kAmxRows = 32;

// What one worker holds besides its AttentionScratch; about 420 KiB. bf16 is
// in uint16_t. Tiles of a right operand have 16 rows of 16 pairs: the two
// elements that a product sums first stand together.
struct alignas(64) AmxScratch {
  static constexpr int kTileElements = 512;
  static constexpr int kKeys = kAmxBlocks * kBlockKeys;

  // Of AttentionKernels.
  decltype(AttentionKernels::cap_scores) cap_scores = nullptr;
  // [rows, head_dim rounded up to 32]
  alignas(64) uint16_t queries[kMaxPackedRows * kMaxHeadDim];
  // [kKeys / 16, head_dim / 32] tiles: pairs of dims by keys.
  uint16_t keys[kKeys * kMaxHeadDim];
  // [kKeys / 32, head_dim / 16] tiles: pairs of keys by dims.
  uint16_t values[kKeys * kMaxHeadDim];
  // Of the rows at hand; a row's weights, in bf16, take the place of the first
  // half of its scores.
  float scores[kAmxRows * kKeys];
  // Blocks held, all of them from one group of kAmxBlocks.
  int blocks = 0;
  int group = -1;
  bool is_full[kAmxBlocks];                      // every row sees all keys
  uint64_t visible[kAmxBlocks][kMaxPackedRows];  // bit k: sees key k
  // Those of them that the rows at hand do not leave out, ascending.
  int kept[kAmxBlocks];
  int kept_blocks = 0;
  AttentionBlock block;  // the last one added
};

// The kernels for rows that may be rounded: queries and weights to bf16, sums
// in float. A pass must be one worker's, since the ends of its stretches mean
// nothing to them. They need AttentionScratch::amx, KV in bf16, and head_dim <=
// kMaxHeadDim. Null where processor or system does not offer AMX.
const AttentionKernels* FindAmxAttentionKernels();

}  // namespace sparseserve::cpu
