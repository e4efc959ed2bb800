#pragma once

// How a pair of tile and KV head leaves the list that it chose, and in which
// order attention takes the pairs: ChosenLists of block_selection.h.

#include <cstdint>

#include "engine/backend/cuda/block_selection.h"

namespace sparseserve::cuda {

__device__ __forceinline__ int4 TileFields(const BlockSelectionArgs& args,
                                           int tile) {
  return __ldg(reinterpret_cast<const int4*>(args.tile_fields) + tile);
}
// The block that a tile lies in.
__device__ __forceinline__ int BlockOf(const int4& tile) {
  return (tile.w + tile.z - 1) / 64;
}

// Where a pair's full blocks go; there is room for all before its own.
__device__ __forceinline__ std::int32_t* ChosenBlocks(
    const BlockSelectionArgs& args, std::int64_t pair) {
  return args.chosen.full_blocks + args.chosen.base_full_blocks +
         pair * args.most_blocks;
}

// Makes `count` full blocks, which were written, and the tile's own the pair's
// list. One warp calls together.
__device__ __forceinline__ void EndChosenList(const BlockSelectionArgs& args,
                                              std::int64_t pair,
                                              const int4& tile, int count) {
  const ChosenLists& chosen = args.chosen;
  const std::int64_t partial = chosen.base_partial_blocks + pair;
  const int lane = threadIdx.x % 32;
  if (lane == 0) {
    const std::int64_t list = chosen.base_lists + 1 + 2 * pair;
    const std::int64_t first =
        chosen.base_full_blocks + pair * args.most_blocks;
    chosen.list_of[pair] = static_cast<std::int32_t>(list);
    chosen.full_offsets[list] = first;
    chosen.full_offsets[list + 1] = first + count;
    chosen.partial_offsets[list] = partial;
    chosen.partial_offsets[list + 1] = partial + 1;
    chosen.partial_blocks[partial] = BlockOf(tile);
    if (chosen.counts != nullptr) chosen.counts[pair] = count + 1;
  }
  if (chosen.partial_masks == nullptr) return;
  for (int row = lane; row < 64; row += 32) {
    const int seen = tile.w % 64 + row + 1;
    chosen.partial_masks[partial * 64 + row] =
        seen >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << seen) - 1;
  }
}

constexpr int kOrderThreads = 256;
constexpr int kOrderTiles = 32;  // of a thread block

// Eight threads for each of the tiles from `first_tile` on: how many of its KV
// head have longer lists, or the same and come later, is its place.
__device__ __forceinline__ void PlaceInOrder(const BlockSelectionArgs& args,
                                             int kv_head, int first_tile) {
  constexpr int kAtOnce = 1024;
  constexpr int kThreadsOfTile = kOrderThreads / kOrderTiles;
  __shared__ int lengths[kAtOnce];
  const ChosenLists& chosen = args.chosen;
  const int part = threadIdx.x % kThreadsOfTile;
  const int tile = first_tile + static_cast<int>(threadIdx.x) / kThreadsOfTile;
  const auto length_of = [&](int t) {
    const int list = chosen.list_of[t * args.kv.kv_heads + kv_head];
    return static_cast<int>(
        chosen.full_offsets[list + 1] - chosen.full_offsets[list] +
        chosen.partial_offsets[list + 1] - chosen.partial_offsets[list]);
  };
  const int own = tile < args.tiles ? length_of(tile) : 0;
  int rank = 0;
  for (int first = 0; first < args.tiles; first += kAtOnce) {
    __syncthreads();
    const int count = min(kAtOnce, args.tiles - first);
#pragma unroll 2
    for (int i = threadIdx.x; i < count; i += kOrderThreads) {
      lengths[i] = length_of(first + i);
    }
    __syncthreads();
#pragma unroll 8
    for (int i = part; i < count; i += kThreadsOfTile) {
      rank += lengths[i] > own || (lengths[i] == own && first + i > tile);
    }
  }
#pragma unroll
  for (int step = kThreadsOfTile / 2; step > 0; step /= 2) {
    rank += __shfl_xor_sync(0xffffffffu, rank, step);
  }
  if (tile < args.tiles && part == 0) {
    chosen.order[kv_head * args.tiles + rank] =
        tile * args.kv.kv_heads + kv_head;
  }
}

}  // namespace sparseserve::cuda
