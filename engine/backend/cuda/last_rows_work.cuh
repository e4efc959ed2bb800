#pragma once

// What the kernels of last_rows_selection.cu share.

#include <cstdint>

#include "engine/backend/cuda/last_rows_selection.h"

namespace sparseserve::cuda {

constexpr int kMostChunkHeads = 4;  // query heads that a thread block takes
constexpr int kColumns = 0, kDiagonals = 1;

struct LastRowsRule {
  int rows = 0;
  int counts[2] = {};  // of keys and of distances that are chosen
  // FlexPrefillRule.
  bool is_flex = false;
  float mass = 1.0f;
  float divergence = 0.0f;
  int least_blocks = 0;
};

// Of a map's elements that are at the threshold, those up to block last_block
// of the tile in block last_tile_block are in.
struct MapCut {
  std::uint32_t threshold;
  std::int32_t last_tile_block, last_block;
};

// Arrays begin with the round's slices. A "head" is a pair of slice of the
// round and KV head, slice * kv_heads + kv_head.
struct LastRowsWork {
  BlockSelectionArgs args;
  LastRowsRule rules[LastRowsSelection::kMostRules];
  int first_slice = 0;
  int slices = 0;       // of the round
  int chunk_heads = 0;  // query heads of a chunk: 1, 2 or 4; some may lack
  int chunks = 0;       // of a KV head
  int splits = 0;       // of a slice's blocks
  bool has_vertical_slash = false;
  bool has_flex = false;
  float factor = 1.0f;  // from products to logs to the base 2

  // [heads, chunks, splits, chunk_heads, 64]: maximum of the row's products
  // and the sum of the powers of 2 behind it.
  float2* row_parts = nullptr;
  // [heads, chunks, most_blocks, 64]: the rows' weights by key.
  float* key_sums = nullptr;
  // [heads, chunks, most_blocks, 128]: of a block's keys, the weights by
  // distance; element i of row - key = i - 63, the last one is 0.
  float* distance_parts = nullptr;
  // [heads, 2, most_blocks, 64]: sums of keys and of distances, as bits.
  std::uint32_t* values = nullptr;
  // [heads, 2, most_blocks]: words of which are chosen.
  std::uint64_t* chosen = nullptr;
  // [heads, 3]: whether the sums of keys and of distances, and what they were
  // compared with, leave no choice.
  std::int32_t* is_everything = nullptr;

  // FlexPrefillRule's.
  float* key_means = nullptr;  // [heads, head_dim, most_blocks]
  // [heads, 18, most_blocks]: products of mean queries of 16 heads, the sum of
  // their softmaxes, the sums of keys by block.
  float* estimates = nullptr;
  std::int32_t* is_query_aware = nullptr;  // [heads]
  // [heads, most_blocks, most_blocks]: scores of blocks of the tile in a block.
  float* map = nullptr;
  MapCut* map_cuts = nullptr;  // [heads]

  __host__ __device__ int group() const {
    return args.heads / args.kv.kv_heads;
  }
  __device__ __forceinline__ float* Map(int head, int tile_block) const {
    return map + (std::int64_t{head} * args.most_blocks + tile_block) *
                     args.most_blocks;
  }
};

// The rows whose attention counts.
struct LastRows {
  int rule = -1;
  int slice = 0;  // row of the page tables
  int rows = 0;
  std::int64_t first_row = 0;  // of the queries
  int first_position = 0;
  int end = 0;  // of the slice's keys

  __device__ __forceinline__ int blocks() const { return (end + 63) / 64; }
};

// A prompt's first two tiles have nothing to choose and its last may see all,
// so that these may have no rule although the others of the slice have one.
__device__ __forceinline__ int RuleOfHead(const BlockSelectionArgs& args,
                                          int first_tile, int last_tile,
                                          int kv_head) {
  const auto rule_of = [&](int tile) {
    return args.rule_of[std::int64_t{tile} * args.kv.kv_heads + kv_head];
  };
  return max(rule_of(min(first_tile + 2, last_tile)),
             max(rule_of(first_tile), rule_of(last_tile)));
}

__device__ __forceinline__ LastRows RowsOfHead(const LastRowsWork& work,
                                               int head) {
  const BlockSelectionArgs& args = work.args;
  const int slice_number = work.first_slice + head / args.kv.kv_heads;
  const int first_tile = args.first_tiles[slice_number];
  const int last_tile = args.first_tiles[slice_number + 1] - 1;
  const auto* tiles = reinterpret_cast<const int4*>(args.tile_fields);
  const int4 first = tiles[first_tile], last = tiles[last_tile];
  LastRows result;
  result.rule =
      RuleOfHead(args, first_tile, last_tile, head % args.kv.kv_heads);
  if (result.rule < 0) return result;
  result.slice = last.x;
  result.rows = min(work.rules[result.rule].rows, last.y + last.z - first.y);
  result.first_row = std::int64_t{last.y} + last.z - result.rows;
  result.end = last.w + last.z;
  result.first_position = result.end - result.rows;
  return result;
}

// Blocks of a split; what is behind the last is not begun.
__device__ __forceinline__ int BlocksOfSplit(const LastRowsWork& work,
                                             int blocks) {
  return max((blocks + work.splits - 1) / work.splits, 2);
}

}  // namespace sparseserve::cuda
