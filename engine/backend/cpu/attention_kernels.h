#pragma once

// Attention of packed query rows over one KV block at a time.

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/simd_level.h"
#include "engine/tensor/dtype.h"

namespace sparseserve::cpu {

inline constexpr int kBlockKeys = 64;
inline constexpr int kMaxHeadDim = 256;
// Rows that share one pass over the blocks: (query row, head of the group).
inline constexpr int kMaxPackedRows = 256;
inline constexpr int kScoreRows = 8;

// One worker's state of a pass; about 400 KiB. Rows of `output` and of
// `values` are head_dim rounded up to 16 apart.
struct alignas(64) AttentionScratch {
  float keys[kMaxHeadDim * kBlockKeys];    // [head_dim, kBlockKeys]
  float values[kBlockKeys * kMaxHeadDim];  // [kBlockKeys, padded head_dim]
  float scores[kScoreRows * kBlockKeys];
  float output[kMaxPackedRows * kMaxHeadDim];  // not yet divided by `sum`
  float maximum[kMaxPackedRows];               // of the scaled scores so far
  float sum[kMaxPackedRows];                   // of exp(score - maximum) so far
  float rescale[kMaxPackedRows];
  const float* queries[kMaxPackedRows];  // [head_dim] each
  // Keys of the block at hand that a row sees: [begin, end) within 0 ... 64;
  // none if begin >= end.
  int32_t visible_begin[kMaxPackedRows];
  int32_t visible_end[kMaxPackedRows];
};

// The block at hand for rows 0 ... rows - 1 of the scratch.
struct AttentionBlock {
  const std::byte* keys = nullptr;    // [kBlockKeys, head_dim] of `dtype`
  const std::byte* values = nullptr;  // likewise
  // What the next call will read, or anything.
  const std::byte* next_keys = nullptr;
  const std::byte* next_values = nullptr;
  DType dtype = DType::kF32;  // kF32 or kBF16
  int head_dim = 0;           // a multiple of 8
  // Keys that some row may see; what lies behind them is not read.
  int loaded_keys = kBlockKeys;
  int rows = 0;
  float scale = 1.0f;
  float softcap = 0.0f;  // as in AttentionArgs
};

struct AttentionKernels {
  // Resets `rows` rows.
  void (*begin)(int rows, int head_dim, AttentionScratch& scratch);
  // Adds a block: row r sees the keys that the scratch says.
  void (*add_block)(const AttentionBlock& block, AttentionScratch& scratch);
  // output = row / sum, or 0 if it saw no key; returns the row's log-sum-exp.
  float (*finish_row)(int row, int head_dim, const AttentionScratch& scratch,
                      float* output);
};

// The best path up to `level`.
const AttentionKernels& AttentionKernelsFor(SimdLevel level);

}  // namespace sparseserve::cpu
