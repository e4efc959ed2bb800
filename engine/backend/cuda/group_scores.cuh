#pragma once

// What block selection's kernels for prefill share: products of groups of
// queries and keys, and the choice that follows from them.
//
// A row is a query group of a query head of a tile: of `row_groups` groups for
// each block of 64 positions and `group` query heads, tile * group * row_groups
// + head * row_groups + group of the block. Columns are key groups,
// `block_groups` to a block. Of each row and block the product kernel leaves
// the log of the sum of exponentials of its scores, so what lies between
// kernels is as large as rows times blocks.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/block_selection.h"

namespace sparseserve::cuda {

struct GroupWork {
  BlockSelectionArgs args;
  int rule = 0;        // index that rule_of names
  int first_tile = 0;  // of those worked on at once
  int tiles = 0;
  int stride = 0;      // positions of a group; 0: pooled
  int row_groups = 1;  // 64 / stride; pooled: 1
  int block_groups = 1;
  float factor = 1.0f;  // from products to scores
  float mass = 1.0f;
  float similarity = -1.0f;
  // [kv_heads, tiles, group * row_groups, most_blocks]
  float* sums = nullptr;
  // Pooled: means as their upper and lower half, which are bf16 whose sum is
  // the mean, [2][head_dim] each.
  __nv_bfloat16* query_means = nullptr;  // [kv_heads, tiles, group]
  float* query_similarities = nullptr;
  __nv_bfloat16* key_means = nullptr;  // [slices, kv_heads, most_blocks]
  float* key_similarities = nullptr;
  const std::int32_t* slice_of = nullptr;  // [tiles of the batch]

  __host__ __device__ int group() const {
    return args.heads / args.kv.kv_heads;
  }
  __host__ __device__ int rows_of_tile() const { return group() * row_groups; }
};

}  // namespace sparseserve::cuda
