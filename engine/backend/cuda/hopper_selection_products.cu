// Products of query and key groups for antidiagonal scores, for compute
// capability 9.0a: a matrix product whose depth is stride * head_dim.
//
// Work split: an item is 128 key groups and four slabs of 64 query groups that
// follow each other, one of a head each: four heads of a KV head, or fewer
// heads and more slabs of each. So a key in shared memory serves 256 rows.
// Items above the diagonal do not exist: a launch ahead lists the others, KV
// head by KV head, so that keys come from L2. Thread blocks, one a
// multiprocessor, take items in turn; one warpgroup copies, two multiply, 128
// rows each. The one that copies is in the next item while the others compute
// exponentials. Memory traffic: queries once; keys once for every 64 query
// groups, from L2. Limits: head_dim 64 or 128, stride a power of two up to 64.

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/group_scores.cuh"
#include "engine/backend/cuda/hopper_copies.cuh"
#include "engine/backend/cuda/hopper_selection_products.h"
#include "engine/backend/cuda/mma_sync.cuh"
#include "engine/backend/cuda/wgmma.cuh"

namespace sparseserve::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kSlabs = 4;
constexpr int kSlabRows = 64;
constexpr int kStages = 4;
// Stages that are being filled before the oldest of them is waited for. Less
// than kStages - 1: a stage is freed when the next one's products are queued.
constexpr int kBehind = 2;
constexpr int kWarpgroup = 128;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kListThreads = 1024;

// Boxes of 64 columns with the 128-byte swizzle, as wgmma.cuh has them.
struct ProductStage {
  __nv_bfloat16 queries[kSlabs][kSlabRows][64];
  __nv_bfloat16 keys[kColumns][64];
};
struct ProductShared {
  ProductStage stages[kStages];
  Barrier full[kStages], empty[kStages];
};
constexpr int kSharedBytes = static_cast<int>(sizeof(ProductShared)) + 1024;

// How the query heads of a KV head become slabs of items.
struct HeadSplit {
  int items;  // that share the heads
  int heads;  // of an item
  int runs;   // slabs of a head in an item

  __host__ __device__ explicit HeadSplit(int group)
      : items((group + kSlabs - 1) / kSlabs),
        heads((group + items - 1) / items),
        runs(kSlabs / heads) {}
  __host__ __device__ int tiles(int row_groups) const {
    return runs * kSlabRows / row_groups;
  }
};

// ---- Which items there are.

// Whether the tile goes on where the one before it ends.
__device__ __forceinline__ bool Follows(const int4& before, const int4& tile) {
  return tile.x == before.x && tile.y == before.y + before.z &&
         tile.w == before.w + before.z &&
         OwnBlock(tile) == OwnBlock(before) + 1;
}

__device__ __forceinline__ bool BeginsRun(const GroupWork& work, int tile,
                                          int most_tiles) {
  const int number = work.first_tile + tile;
  return tile % most_tiles == 0 ||
         !Follows(TileAt(work.args, number - 1), TileAt(work.args, number));
}

// Sum of the values of the threads before, and of all.
__device__ __forceinline__ int2 SumBefore(int value, int (&sums)[32]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  const int of_warp = sums[lane];
  const int before =
      static_cast<int>(__reduce_add_sync(kAll, lane < warp ? of_warp : 0));
  return {before + sum - value,
          static_cast<int>(__reduce_add_sync(kAll, of_warp))};
}

// Items (first tile, tiles, column tile, kv_head * HeadSplit::items + part of
// the heads), and their number behind product_items' first.
__global__ void __launch_bounds__(kListThreads)
    ListProducts(const GroupWork work) {
  __shared__ int sums[2][32];
  WaitForDependency();
  LetDependentsStart();
  const HeadSplit split(work.group());
  const int most_tiles = split.tiles(work.row_groups);
  int4* const items = work.product_items + 1;
  int listed = 0, turn = 0;
  for (int base = 0; base < work.tiles; base += kListThreads) {
    const int tile = base + static_cast<int>(threadIdx.x);
    int first = tile, column_tiles = 0;
    if (tile < work.tiles &&
        (tile + 1 == work.tiles || BeginsRun(work, tile + 1, most_tiles))) {
      column_tiles =
          ColumnTilesOf(work, TileAt(work.args, work.first_tile + tile));
      while (!BeginsRun(work, first, most_tiles)) --first;
    }
    for (int kv_head = 0; kv_head < work.args.kv.kv_heads; ++kv_head) {
      const int own =
          column_tiles > 0 && IsAsked(work, work.first_tile + tile, kv_head)
              ? column_tiles
              : 0;
      const int2 before = SumBefore(own, sums[turn]);
      turn ^= 1;
      for (int part = 0; part < split.items; ++part) {
        for (int c = 0; c < own; ++c) {
          items[listed + before.x + c] = {work.first_tile + first,
                                          tile - first + 1, c,
                                          kv_head * split.items + part};
        }
        listed += before.y;
      }
    }
  }
  if (threadIdx.x == 0) work.product_items[0].x = listed;
}

// ---- An item.

struct ProductItem {
  int4 first;  // fields of the first tile
  int first_tile;
  int tiles;
  int column_tile;
  int kv_head;
  int first_head;   // of the group
  int heads;        // up to HeadSplit::heads
  int first_group;  // the first tile's block's
  int end;          // behind the last position
};

__device__ __forceinline__ ProductItem ItemOf(const GroupWork& work,
                                              const HeadSplit& split,
                                              const int4& listed,
                                              const int4& first,
                                              const int4& last) {
  ProductItem item;
  item.first_tile = listed.x;
  item.tiles = listed.y;
  item.column_tile = listed.z;
  item.kv_head = listed.w / split.items;
  item.first_head = listed.w % split.items * split.heads;
  item.heads = min(split.heads, work.group() - item.first_head);
  item.first = first;
  item.first_group = OwnBlock(first) * work.row_groups;
  item.end = last.w + last.z;
  return item;
}
__device__ __forceinline__ int4 LastTileOf(const GroupWork& work,
                                           const int4& listed) {
  return TileAt(work.args, listed.x + listed.y - 1);
}

// ---- The warpgroup that copies. A thread has a 16-byte column of every 16th
// row of queries and keys.

class ProductCopies {
 public:
  __device__ __forceinline__ ProductCopies(const GroupWork& work,
                                           ProductShared& shared)
      : work_(work),
        shared_(shared),
        split_(work.group()),
        row_(threadIdx.x / 8),
        column_(threadIdx.x % 8) {}

  __device__ __forceinline__ void Run() {
    const int items = work_.product_items[0].x;
    const int steps = work_.stride * work_.args.kv.head_dim / 64;
    int next = blockIdx.x;
    if (next >= items) return;
    Look(next);
    LookAtTiles();
    LookAtPages();
    while (true) {
      const Planned now = Plan();
      next += gridDim.x;
      const bool more = next < items;
      int slot = 0, depth = 0;
      for (int step = 0; step < steps; ++step) {
        CopyStage(now, slot, depth);
        depth += 64;
        if (depth == work_.args.kv.head_dim) depth = 0, ++slot;
        if (!more) continue;
        // The next item's loads, each of which needs what the one before gave.
        if (step == 0) Look(next);
        if (step == min(1, steps - 1)) LookAtTiles();
        if (step == min(2, steps - 1)) LookAtPages();
      }
      if (!more) break;
    }
    WaitForCopies<0>();
    for (int i = min(filled_, kBehind); i > 0; --i) Publish(i);
  }

 private:
  static constexpr int kRows = kWarpgroup / 8;  // at once
  static constexpr int kSlabCopies = kSlabRows / kRows;
  static constexpr int kKeyCopies = kColumns / kRows;

  struct Planned {
    const __nv_bfloat16* queries;  // this thread's, of slab 0 and slot 0
    int query;                     // how far behind the first tile's first row
    int rows;                      // of the item's tiles
    int key_positions;             // from this thread's first key group on
    int heads;
    int groups;                      // of the item's tiles
    std::uint32_t keys[kKeyCopies];  // of 8 elements; where slot 0 begins
  };

  __device__ __forceinline__ void Look(int index) {
    listed_ = work_.product_items[1 + index];
  }
  __device__ __forceinline__ void LookAtTiles() {
    first_ = TileAt(work_.args, listed_.x);
    last_ = LastTileOf(work_, listed_);
  }
  // This thread's first key group.
  __device__ __forceinline__ int FirstKey() const {
    return (listed_.z * kColumns + row_) * work_.stride;
  }
  __device__ __forceinline__ void LookAtPages() {
    const PagedKv& kv = work_.args.kv;
    const std::int32_t* const table =
        kv.page_tables + first_.x * kv.page_table_stride;
    const int end = last_.w + last_.z;
#pragma unroll
    for (int i = 0; i < kKeyCopies; ++i) {
      // Behind the last key any page will do.
      const int position = FirstKey() + i * kRows * work_.stride;
      pages_[i] = __ldg(table + min(position, end - 1) / 64);
    }
  }

  __device__ __forceinline__ Planned Plan() const {
    const BlockSelectionArgs& args = work_.args;
    const PagedKv& kv = args.kv;
    const ProductItem item = ItemOf(work_, split_, listed_, first_, last_);
    Planned planned;
    planned.query = (item.first_group + row_) * work_.stride + work_.stride -
                    1 - item.first.w;
    planned.queries =
        static_cast<const __nv_bfloat16*>(args.queries) +
        (std::int64_t{item.first.y} + planned.query) * args.query_stride +
        (item.kv_head * work_.group() + item.first_head) * kv.head_dim +
        column_ * 8;
    planned.rows = item.end - item.first.w;
    planned.heads = item.heads;
    planned.groups = item.tiles * work_.row_groups;
    planned.key_positions = item.end - FirstKey();
#pragma unroll
    for (int i = 0; i < kKeyCopies; ++i) {
      const int position = FirstKey() + i * kRows * work_.stride;
      planned.keys[i] = static_cast<std::uint32_t>(
          ((std::int64_t{pages_[i]} * kv.kv_heads + item.kv_head) * 64 +
           position % 64) *
              kv.head_dim / 8 +
          column_);
    }
    return planned;
  }

  // Slot `slot` of every group, query slots counted backwards, and 64 elements
  // of it. What is no query or key of the item is zeros.
  __device__ __forceinline__ void CopyStage(const Planned& from, int slot,
                                            int depth) {
    shared_.empty[at_.stage].Wait(at_.parity ^ 1);
    ProductStage& stage = shared_.stages[at_.stage];
    const std::uint32_t place =
        row_ * 128 + ((column_ ^ (row_ % 8)) * 16);  // rows 16 on: the same
    const std::uint32_t query_place = SharedAddress(stage.queries) + place;
    const std::int64_t stride = work_.args.query_stride;
    const std::int64_t rows_on = kRows * work_.stride * stride;
    const __nv_bfloat16* const queries = from.queries - slot * stride + depth;
#pragma unroll
    for (int s = 0; s < kSlabs; ++s) {
      const int run = s / split_.heads, head = s % split_.heads;
      if (head >= from.heads || run * kSlabRows >= from.groups) continue;
      const __nv_bfloat16* source =
          queries + run * kSlabCopies * rows_on + head * work_.args.kv.head_dim;
      int query = from.query + run * kSlabRows * work_.stride - slot;
#pragma unroll
      for (int i = 0; i < kSlabCopies; ++i) {
        const bool exists =
            static_cast<unsigned>(query) < static_cast<unsigned>(from.rows);
        CopyChunk(
            query_place + (s * kSlabRows + i * kRows) * 128,
            exists ? static_cast<const void*>(source) : work_.args.queries,
            exists);
        source += rows_on;
        query += kRows * work_.stride;
      }
    }
    const std::uint32_t key_place = SharedAddress(stage.keys) + place;
    const auto* const keys =
        static_cast<const __nv_bfloat16*>(work_.args.kv.keys) +
        slot * work_.args.kv.head_dim + depth;
    const int before = from.key_positions - slot;
#pragma unroll
    for (int i = 0; i < kKeyCopies; ++i) {
      const bool exists = i * kRows * work_.stride < before;
      CopyChunk(key_place + i * kRows * 128,
                exists ? static_cast<const void*>(
                             keys + std::int64_t{from.keys[i]} * 8)
                       : work_.args.kv.keys,
                exists);
    }
    CommitCopies();
    ++filled_;
    at_.Advance();
    if (filled_ > kBehind) {
      WaitForCopies<kBehind>();
      Publish(kBehind + 1);
    }
  }

  // Of the stage that was filled `behind` stages ago this thread's copies have
  // come: shows them to wgmma.
  __device__ __forceinline__ void Publish(int behind) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      shared_.full[(at_.stage + kStages - behind) % kStages].Arrive();
    }
  }

  const GroupWork& work_;
  ProductShared& shared_;
  const HeadSplit split_;
  const int row_, column_;
  RingPosition<kStages> at_;
  int filled_ = 0;
  // Of the item that is copied next.
  int4 listed_, first_, last_;
  std::int32_t pages_[kKeyCopies];
};

// ---- The warpgroups that multiply.

// Of kCount values each lane keeps every other one, with what its neighbour has
// of it added.
template <int kCount>
__device__ __forceinline__ void Fold(float (&values)[16], int neighbour) {
  const bool odd = (threadIdx.x & neighbour) != 0;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    const float even_one = values[2 * i], odd_one = values[2 * i + 1];
    values[i] = (odd ? odd_one : even_one) +
                __shfl_xor_sync(kAll, odd ? even_one : odd_one, neighbour);
  }
}

// From scores of a slab, in wgmma.cuh's order, to sums of exponentials.
template <int kGroups>
__device__ __forceinline__ void StoreSlab(const GroupWork& work,
                                          const ProductItem& item, int run,
                                          int head, float (&scores)[64]) {
  const int lane = threadIdx.x % 32, quad = lane % 4;
  const int first_column = item.column_tile * kColumns;
  const int first_row = run * kSlabRows + threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int within = first_row + 8 * half;  // group of the item
    const int group = item.first_group + within;
    const int seen = group + 1 - first_column - 2 * quad;  // columns
    float greatest = -INFINITY;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      float& score = scores[i / 2 * 4 + 2 * half + i % 2];
      if (i / 2 * 8 + i % 2 >= seen) score = -INFINITY;
      greatest = fmaxf(greatest, score);
    }
    greatest = fmaxf(greatest, __shfl_xor_sync(kAll, greatest, 1));
    greatest = fmaxf(greatest, __shfl_xor_sync(kAll, greatest, 2));
    greatest *= work.factor;
    const float reference = greatest == -INFINITY ? 0.0f : greatest;

    const int block = group / work.row_groups;
    const int tile = item.first_tile + within / work.row_groups;
    const bool counts = within < item.tiles * work.row_groups &&
                        (group + 1) * work.stride > item.first.w &&
                        group * work.stride < item.end;
    const std::int64_t row =
        ((std::int64_t{item.kv_head} * work.tiles + tile - work.first_tile) *
             work.group() +
         item.first_head + head) *
            work.row_groups +
        group - block * work.row_groups;
    float* const to = work.sums + row * work.row_blocks() +
                      item.column_tile * work.tile_blocks();
    float values[16];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float* const two = &scores[i * 4 + 2 * half];
      const float first = PowerOf2(fmaf(two[0], work.factor, -reference));
      const float second = PowerOf2(fmaf(two[1], work.factor, -reference));
      values[i] = first + second;
      sum += values[i];
      if (kGroups == 1 && counts) {
        *reinterpret_cast<float2*>(to + 8 * i + 2 * quad) = {first, second};
      }
    }
    sum += __shfl_xor_sync(kAll, sum, 1);
    sum += __shfl_xor_sync(kAll, sum, 2);
    if (counts && quad == 0) {
      work.tops[row * work.column_tiles + item.column_tile] = {greatest, sum};
    }
    if (kGroups == 1) continue;
    // Value i is that of block 4 i + place.
    int place = quad;
    const int turned = quad / 2 + quad % 2 * 2;
    if (kGroups >= 4) Fold<16>(values, 1), place = turned;
    if (kGroups >= 8) Fold<8>(values, 2), place = quad;
    if (kGroups >= 16) Fold<4>(values, 1), place = turned;
    if (kGroups >= 32) Fold<2>(values, 2), place = quad;
#pragma unroll
    for (int i = 0; i < 32 / kGroups; ++i) {
      if (counts) to[4 * i + place] = values[i];
    }
  }
}

__device__ __forceinline__ void StoreSlab(const GroupWork& work,
                                          const ProductItem& item, int run,
                                          int head, float (&scores)[64]) {
  switch (work.block_groups) {
    case 1:
      return StoreSlab<1>(work, item, run, head, scores);
    case 2:
      return StoreSlab<2>(work, item, run, head, scores);
    case 4:
      return StoreSlab<4>(work, item, run, head, scores);
    case 8:
      return StoreSlab<8>(work, item, run, head, scores);
    case 16:
      return StoreSlab<16>(work, item, run, head, scores);
    default:
      return StoreSlab<32>(work, item, run, head, scores);
  }
}

// `warpgroup`: 0 or 1, slabs 2 * warpgroup and the next.
__device__ __forceinline__ void MultiplyGroups(const GroupWork& work,
                                               ProductShared& shared,
                                               int warpgroup) {
  const HeadSplit split(work.group());
  const int items = work.product_items[0].x;
  const int steps = work.stride * work.args.kv.head_dim / 64;
  const auto free = [&](int stage) {
    if (threadIdx.x % 32 == 0) shared.empty[stage].Arrive();
  };
  RingPosition<kStages> at;
  float scores[2][64];
  for (int next = blockIdx.x; next < items; next += gridDim.x) {
    const int4 listed = work.product_items[1 + next];
    const ProductItem item =
        ItemOf(work, split, listed, TileAt(work.args, listed.x),
               LastTileOf(work, listed));
    int previous = 0;
    for (int step = 0; step < steps; ++step) {
      shared.full[at.stage].Wait(at.parity);
      const ProductStage& stage = shared.stages[at.stage];
      const std::uint64_t left = DescribeBoxes(stage.queries[2 * warpgroup], 0);
      const std::uint64_t right = DescribeBoxes(stage.keys, 0);
      FenceProducts();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        MultiplyByRows(scores[0], Behind(left, i * 32), Behind(right, i * 32),
                       step > 0 || i > 0);
        MultiplyByRows(scores[1], Behind(left, kSlabRows * 128 + i * 32),
                       Behind(right, i * 32), step > 0 || i > 0);
      }
      CommitProducts();
      if (step > 0) {
        WaitProducts<1>();
        free(previous);
      }
      previous = at.stage;
      at.Advance();
    }
    WaitProducts<0>();
    Pin(scores[0]);
    Pin(scores[1]);
    free(previous);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int slab = 2 * warpgroup + m;
      const int run = slab / split.heads, head = slab % split.heads;
      // What slabs hold that are not the item's is nobody's.
      if (run < split.runs && head < item.heads) {
        StoreSlab(work, item, run, head, scores[m]);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    HopperGroupProducts(const __grid_constant__ GroupWork work) {
  extern __shared__ unsigned char memory[];
  auto& shared = *reinterpret_cast<ProductShared*>(
      memory + (1024 - SharedAddress(memory) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      shared.full[i].Init(kWarpgroup / 32);
      shared.empty[i].Init(2 * kWarpgroup / 32);
    }
    PublishBarriers();
  }
  __syncthreads();
  WaitForDependency();
  LetDependentsStart();
  // 168 registers are there for each thread; what one warpgroup gives, the two
  // others take.
  const int warpgroup = __shfl_sync(kAll, threadIdx.x / kWarpgroup, 0);
  if (warpgroup == 0) {
    GiveRegisters<88>();
    ProductCopies(work, shared).Run();
  } else {
    TakeRegisters<208>();
    MultiplyGroups(work, shared, warpgroup - 1);
  }
}

}  // namespace

LaunchStatus PrepareHopperProducts() {
  return StatusOf(
      cudaFuncSetAttribute(HopperGroupProducts,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           kSharedBytes),
      "shared memory of group products");
}

std::int64_t HopperProductBytes(const GroupWork& work) {
  return std::int64_t{work.args.kv.kv_heads} * HeadSplit(work.group()).items *
         work.column_tiles * static_cast<int>(sizeof(int4));
}

LaunchStatus LaunchHopperProducts(const GroupWork& work, int multiprocessors,
                                  CUstream_st* stream) {
  if (auto status =
          LaunchDependent(ListProducts, {1, kListThreads, 0}, work, stream,
                          "launch of the list of group products");
      !status.ok()) {
    return status;
  }
  return LaunchDependent(
      HopperGroupProducts,
      {static_cast<unsigned>(multiprocessors), kThreads, kSharedBytes}, work,
      stream, "launch of group products");
}

}  // namespace sparseserve::cuda
