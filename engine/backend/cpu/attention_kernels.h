#pragma once

// Attention of packed query rows over one KV block at a time.

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/simd_level.h"
#include "engine/layout/block_layout.h"
#include "engine/tensor/dtype.h"

namespace sparseserve::cpu {

inline constexpr int kBlockKeys = 64;
inline constexpr int kMaxHeadDim = 256;
// Rows that share one pass over the blocks: (query row, head of the group).
inline constexpr int kMaxPackedRows = 256;
inline constexpr int kScoreRows = 8;
// From a row of values or outputs to the next.
constexpr int RowStride(int head_dim) { return (head_dim + 15) / 16 * 16; }

// A pass goes through the context in stretches of so many blocks, counted from
// position 0, and merges their results. So stretches can go to different
// workers, and nobody sees in the result whether they did.
inline constexpr int kStretchBlocks = 8;

// Of rows that may be rounded (amx_attention.h).
struct AmxScratch;

// One worker's state of a pass; about 650 KiB. Rows of `values` and of the
// outputs are head_dim rounded up to 16 apart.
struct alignas(64) AttentionScratch {
  float keys[kMaxHeadDim * kBlockKeys];    // [head_dim, kBlockKeys]
  float values[kBlockKeys * kMaxHeadDim];  // [kBlockKeys, padded head_dim]
  float scores[kScoreRows * kBlockKeys];
  // The stretch at hand.
  float output[kMaxPackedRows * kMaxHeadDim];  // not yet divided by `sum`
  float maximum[kMaxPackedRows];               // of the scores so far, unscaled
  // Of exp(scale * (score - maximum)) so far.
  float sum[kMaxPackedRows];
  float rescale[kMaxPackedRows];
  float scale;  // what multiplies scores before the softmax
  // The stretches before it, likewise; `total_output` counts only where
  // `total_sum` is not 0.
  float total_output[kMaxPackedRows * kMaxHeadDim];
  float total_maximum[kMaxPackedRows];
  float total_sum[kMaxPackedRows];
  const float* queries[kMaxPackedRows];  // [head_dim] each
  // Keys of the block at hand that a row sees: [begin, end) within 0 ... 64;
  // none if begin >= end.
  int32_t visible_begin[kMaxPackedRows];
  int32_t visible_end[kMaxPackedRows];
  // Where the block says so, which of them: bit k is key k.
  uint64_t visible_bits[kMaxPackedRows];
  // [kBlockKeys] each, where the block has a bias.
  const float* bias[kMaxPackedRows];
  // Blocks that rows left out, each counted for every row. Whoever reads it
  // sets it to 0.
  int64_t skipped = 0;
  AmxScratch* amx = nullptr;  // not owned; null where no kernel needs it
};

// The block at hand for rows 0 ... rows - 1 of the scratch.
struct AttentionBlock {
  // Where stretches, and blocks that are multiplied side by side, begin and
  // end: those of one pass ascend.
  int32_t place = 0;
  const std::byte* keys = nullptr;    // [kBlockKeys, head_dim] of `dtype`
  const std::byte* values = nullptr;  // likewise
  // What the next call will read, or anything.
  const std::byte* next_keys = nullptr;
  const std::byte* next_values = nullptr;
  DType dtype = DType::kF32;  // kF32 or kBF16
  int head_dim = 0;           // a multiple of 8
  // Keys that some row may see; what lies behind them is not read.
  int loaded_keys = kBlockKeys;
  bool is_full = false;  // every row sees all of its keys
  // Rows see no more than visible_bits of what lies between begin and end.
  bool has_bits = false;
  // The scratch says what is added to scores once they are scaled and capped.
  bool has_bias = false;
  int rows = 0;
  float scale = 1.0f;    // as in AttentionArgs
  float softcap = 0.0f;  // likewise
  // As BlockLayout::skip_below, compared with the greatest score of the stretch
  // so far or, if `skips_by_total`, of the whole pass so far.
  float skip_below = kNoSkip;
  bool skips_by_total = false;
};

struct AttentionKernels {
  // Resets `rows` rows. Scores will be multiplied by `scale`.
  void (*begin)(int rows, int head_dim, float scale, AttentionScratch& scratch);
  // Adds a block: row r sees the keys that the scratch says.
  void (*add_block)(const AttentionBlock& block, AttentionScratch& scratch);
  // Merges the stretch at hand into the total and begins the next.
  void (*end_stretch)(int rows, int head_dim, AttentionScratch& scratch);
  // output = total / sum, or 0 if the row saw no key; returns its log-sum-exp.
  float (*finish_row)(int row, int head_dim, const AttentionScratch& scratch,
                      float* output);
  // scores[i] = softcap * tanh(scale * scores[i] / softcap), `columns` a
  // multiple of 16.
  void (*cap_scores)(int columns, float scale, float softcap, float* scores);
};

// What rows a path is made for. What is for few rounds scores otherwise and is
// slower for many; where head_dim is no multiple of two vectors, both are the
// same.
enum class RowCount { kMany, kFew };

// The best path up to `level`.
const AttentionKernels& AttentionKernelsFor(SimdLevel level, RowCount rows);

}  // namespace sparseserve::cpu
