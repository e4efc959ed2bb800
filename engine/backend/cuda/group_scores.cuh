#pragma once

// What block selection's kernels for prefill share: products of groups of
// queries and keys, and the choice that follows from them.
//
// A row is a query group of a query head of a tile: of `row_groups` groups for
// each block of 64 positions and `group` query heads, tile * group * row_groups
// + head * row_groups + group of the block. Columns are key groups,
// `block_groups` to a block, kColumns to a column tile. Of each row and column
// tile products leave the greatest score and the sum of exponentials of scores
// relative to it, all in one and for each block. So a row's softmax needs no
// exponential for a block, and what lies between kernels is as large as rows
// times blocks.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/block_selection.h"

namespace sparseserve::cuda {

constexpr int kColumns = 128;

struct GroupWork {
  BlockSelectionArgs args;
  int rule = 0;        // index that rule_of names
  int first_tile = 0;  // of those worked on at once
  int tiles = 0;
  int stride = 0;      // positions of a group; 0: pooled
  int row_groups = 1;  // 64 / stride; pooled: 1
  int block_groups = 1;
  float factor = 1.0f;  // from products to scores, in units of log(2)
  float mass = 1.0f;
  float similarity = -1.0f;
  int column_tiles = 1;  // of a row
  // [kv_heads, tiles, group * row_groups, row_blocks()]: of each block, 2 to
  // the power of score - greatest of the column tile, added up.
  float* sums = nullptr;
  // [kv_heads, tiles, group * row_groups, column_tiles]: the greatest score,
  // and the sum over all blocks.
  float2* tops = nullptr;
  // Pooled: means as their upper and lower half, which are bf16 whose sum is
  // the mean, [2][head_dim] each.
  __nv_bfloat16* query_means = nullptr;  // [kv_heads, tiles, group]
  float* query_similarities = nullptr;
  __nv_bfloat16* key_means = nullptr;  // [slices, kv_heads, most_blocks]
  float* key_similarities = nullptr;
  const std::int32_t* slice_of = nullptr;  // [tiles of the batch]
  std::int32_t* lengths = nullptr;         // [tiles of the batch, kv_heads]
  // What hopper_selection_products.h asks for.
  int4* product_items = nullptr;
  int product_tiles = 0;  // for which there is room

  __host__ __device__ int group() const {
    return args.heads / args.kv.kv_heads;
  }
  __host__ __device__ int rows_of_tile() const { return group() * row_groups; }
  __host__ __device__ int tile_blocks() const {  // of a column tile
    return kColumns / block_groups;
  }
  __host__ __device__ int row_blocks() const {
    return column_tiles * tile_blocks();
  }
};

__device__ __forceinline__ int4 TileAt(const BlockSelectionArgs& args,
                                       int tile) {
  return __ldg(reinterpret_cast<const int4*>(args.tile_fields) + tile);
}
__device__ __forceinline__ int OwnBlock(const int4& tile) {
  return (tile.w + tile.z - 1) / 64;
}
// Column tiles that a tile's rows see.
__device__ __forceinline__ int ColumnTilesOf(const GroupWork& work,
                                             const int4& tile) {
  return ((OwnBlock(tile) + 1) * work.block_groups + kColumns - 1) / kColumns;
}
__device__ __forceinline__ bool IsAsked(const GroupWork& work, int tile,
                                        int kv_head) {
  return work.args.rule_of[tile * work.args.kv.kv_heads + kv_head] == work.rule;
}

// 2^x; 0 for -infinity.
__device__ __forceinline__ float PowerOf2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace sparseserve::cuda
