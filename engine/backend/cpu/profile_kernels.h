#pragma once

// Attention weights of the rows of one tile and head, a KV block at a time.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/cpu/attention_kernels.h"
#include "engine/backend/cpu/simd_level.h"
#include "engine/tensor/dtype.h"

namespace sparseserve::cpu {

// One worker's state.
struct alignas(64) ProfileScratch {
  // So many elements behind those that count may be written.
  static constexpr int kSlack = 64;

  float keys[kMaxHeadDim * kBlockKeys];  // [head_dim, kBlockKeys]
  // The block at hand, [rows, kBlockKeys]; 0 for keys that a row does not see.
  float weights[kBlockKeys * kBlockKeys];
  float key_weights[kBlockKeys];  // summed over the rows
  // Set by the caller, for each row of the tile: its query, [head_dim]; its
  // log-sum-exp; which keys of the block at hand it sees, [begin, end).
  const float* queries[kBlockKeys];
  float lse[kBlockKeys];
  int32_t visible_begin[kBlockKeys];
  int32_t visible_end[kBlockKeys];
  // Added to by every block; the caller's to reset.
  float entropy[kBlockKeys];  // -sum_j a ln a of a row
  // Weight by distance: element kBlockKeys - 1 + j - r is of row r's key j.
  std::vector<float> diagonals;
};

struct ProfileBlock {
  const std::byte* keys = nullptr;  // [kBlockKeys, head_dim] of `dtype`
  DType dtype = DType::kF32;        // kF32 or kBF16
  int head_dim = 0;                 // a multiple of 8
  int loaded_keys = kBlockKeys;     // what lies behind them is not read
  int64_t first_key = 0;            // position
  int rows = 0;
  float scale = 1.0f;
  float softcap = 0.0f;  // as in AttentionArgs
};

struct ProfileKernels {
  // REQUIRES: diagonals has first_key + 2 * kBlockKeys + kSlack elements.
  void (*add_block)(const ProfileBlock& block, ProfileScratch& scratch);
};

// The best path up to `level`.
const ProfileKernels& ProfileKernelsFor(SimdLevel level);

}  // namespace sparseserve::cpu
