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
constexpr int kItems = 4;  // under way at most
constexpr int kWarpgroup = 128;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kListThreads = 1024;

// Boxes of 64 columns with the 128-byte swizzle, as wgmma.cuh has them.
struct ProductStage {
  __nv_bfloat16 queries[kSlabs][kSlabRows][64];
  __nv_bfloat16 keys[kColumns][64];
};

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

// Where a KV head's items are, behind the number of every KV head's.
__device__ __forceinline__ int4* ItemsOf(const GroupWork& work, int kv_head) {
  const std::int64_t most = std::int64_t{work.product_tiles} *
                            work.column_tiles * HeadSplit(work.group()).items;
  return work.product_items + (work.args.kv.kv_heads + 3) / 4 + kv_head * most;
}
__device__ __forceinline__ int* ItemCounts(const GroupWork& work) {
  return reinterpret_cast<int*>(work.product_items);
}

// A thread block for each KV head. Items: first tile, tiles, column tile, part
// of the heads.
__global__ void __launch_bounds__(kListThreads)
    ListProducts(const GroupWork work) {
  __shared__ int sums[32];
  __shared__ bool begins[kListThreads];
  WaitForDependency();
  LetDependentsStart();
  const HeadSplit split(work.group());
  const int kv_head = blockIdx.x;
  const int most_tiles = split.tiles(work.row_groups);
  int4* const items = ItemsOf(work, kv_head);
  int listed = 0;
  // No run goes on from one round to the next.
  const int at_once = kListThreads / most_tiles * most_tiles;
  for (int base = 0; base < work.tiles; base += at_once) {
    const int own = static_cast<int>(threadIdx.x);
    const int tile = base + own, number = work.first_tile + tile;
    const bool exists = own < at_once && tile < work.tiles;
    int4 fields = {}, before = {};
    bool asked = false;
    if (exists) {
      fields = TileAt(work.args, number);
      if (own > 0) before = TileAt(work.args, number - 1);
      asked = IsAsked(work, number, kv_head);
    }
    __syncthreads();
    begins[own] = !exists || own % most_tiles == 0 || !Follows(before, fields);
    __syncthreads();
    int first = own;
    while (exists && !begins[first]) --first;
    const bool ends = exists && (own + 1 == at_once || begins[own + 1]);
    const int column_tiles = ends && asked ? ColumnTilesOf(work, fields) : 0;
    const int2 place = SumBefore(column_tiles * split.items, sums);
    for (int i = 0; i < column_tiles * split.items; ++i) {
      items[listed + place.x + i] = {number - (own - first), own - first + 1,
                                     i / split.items, i % split.items};
    }
    listed += place.y;
  }
  if (threadIdx.x == 0) ItemCounts(work)[kv_head] = listed;
}

// ---- An item.

struct ProductItem {
  int first_tile;
  int tiles;
  int column_tile;
  int kv_head;
  int first_head;   // of the group
  int heads;        // up to HeadSplit::heads
  int first_group;  // of the first tile's block
  int begin, end;   // positions
};

// Items of all KV heads, one after another.
class ItemQueue {
 public:
  __device__ __forceinline__ explicit ItemQueue(const GroupWork& work)
      : work_(work) {}

  // The item `steps` behind the last one; false if there is none.
  __device__ __forceinline__ bool Skip(int steps) {
    index_ += steps;
    while (kv_head_ < work_.args.kv.kv_heads) {
      const int count = ItemCounts(work_)[kv_head_];
      if (index_ < count) return true;
      index_ -= count;
      ++kv_head_;
    }
    return false;
  }
  __device__ __forceinline__ int kv_head() const { return kv_head_; }
  __device__ __forceinline__ int4 Listed() const {
    return ItemsOf(work_, kv_head_)[index_];
  }

 private:
  const GroupWork& work_;
  int kv_head_ = 0, index_ = 0;
};

struct ProductShared {
  ProductStage stages[kStages];
  // Full with the item's first stage. An item has two stages at least, so none
  // of the next two is copied before this one is stored.
  ProductItem items[kItems];
  Barrier full[kStages], empty[kStages];
};
constexpr int kSharedBytes = static_cast<int>(sizeof(ProductShared)) + 1024;

// ---- The warpgroup that copies. A thread has a 16-byte column of every 16th
// row of queries and keys.

class ProductCopies {
 public:
  __device__ __forceinline__ ProductCopies(const GroupWork& work,
                                           ProductShared& shared)
      : work_(work),
        shared_(shared),
        split_(work.group()),
        queue_(work),
        row_(threadIdx.x / 8),
        column_(threadIdx.x % 8) {}

  __device__ __forceinline__ void Run() {
    bool more = queue_.Skip(blockIdx.x);
    if (!more) return;
    Look();
    LookAtTiles();
    LookAtPages();
    for (int number = 0; more; ++number) {
      const Planned now = Plan(shared_.items[number % kItems]);
      more = queue_.Skip(gridDim.x);
      if (now.whole) {
        CopyItem<true>(now, more);
      } else {
        CopyItem<false>(now, more);
      }
    }
    WaitForCopies<0>();
    for (int i = min(filled_, kBehind); i > 0; --i) Publish(i);
  }

 private:
  static constexpr int kRows = kWarpgroup / 8;  // at once
  static constexpr int kSlabCopies = kSlabRows / kRows;
  static constexpr int kKeyCopies = kColumns / kRows;

  struct Planned {
    // This thread's, of slot 0.
    const __nv_bfloat16* queries;    // of slab 0
    std::int64_t slabs[kSlabs];      // how far behind the others are
    std::uint32_t keys[kKeyCopies];  // of 8 elements
    bool exists[kSlabs];
    bool whole;  // no query and no key is missing
    // What says which are missing:
    int query;          // how far behind the item's first row
    int rows;           // of the item
    int key_positions;  // from this thread's first key group on
  };

  __device__ __forceinline__ void Look() {
    listed_ = queue_.Listed();
    kv_head_ = queue_.kv_head();
  }
  __device__ __forceinline__ void LookAtTiles() {
    first_ = TileAt(work_.args, listed_.x);
    last_ = TileAt(work_.args, listed_.x + listed_.y - 1);
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

  // Of what was looked at; also leaves the item for those that multiply.
  __device__ __forceinline__ Planned Plan(ProductItem& item) const {
    const BlockSelectionArgs& args = work_.args;
    const PagedKv& kv = args.kv;
    const int end = last_.w + last_.z;
    const int first_group = OwnBlock(first_) * work_.row_groups;
    const int first_head = listed_.w * split_.heads;
    const int heads = min(split_.heads, work_.group() - first_head);
    const int groups = listed_.y * work_.row_groups;
    if (threadIdx.x == 0) {
      item = {listed_.x, listed_.y,   listed_.z, kv_head_, first_head,
              heads,     first_group, first_.w,  end};
    }
    Planned planned;
    planned.query =
        (first_group + row_) * work_.stride + work_.stride - 1 - first_.w;
    planned.queries =
        static_cast<const __nv_bfloat16*>(args.queries) +
        (std::int64_t{first_.y} + planned.query) * args.query_stride +
        (kv_head_ * work_.group() + first_head) * kv.head_dim + column_ * 8;
    planned.rows = end - first_.w;
    planned.key_positions = end - FirstKey();
    planned.whole = planned.rows == groups * work_.stride &&
                    groups % kSlabRows == 0 &&
                    end >= (listed_.z + 1) * kColumns * work_.stride;
#pragma unroll
    for (int s = 0; s < kSlabs; ++s) {
      const int run = s / split_.heads, head = s % split_.heads;
      planned.exists[s] = head < heads && run * kSlabRows < groups;
      planned.slabs[s] =
          std::int64_t{run} * kSlabRows * work_.stride * args.query_stride +
          head * kv.head_dim;
    }
#pragma unroll
    for (int i = 0; i < kKeyCopies; ++i) {
      const int position = FirstKey() + i * kRows * work_.stride;
      planned.keys[i] = static_cast<std::uint32_t>(
          ((std::int64_t{pages_[i]} * kv.kv_heads + kv_head_) * 64 +
           position % 64) *
              kv.head_dim / 8 +
          column_);
    }
    return planned;
  }

  // `more`: there is a next item, whose loads are under way meanwhile; each of
  // them needs what the one before gave.
  template <bool kWhole>
  __device__ __forceinline__ void CopyItem(const Planned& now, bool more) {
    const int steps = work_.stride * work_.args.kv.head_dim / 64;
    int slot = 0, depth = 0;
    for (int step = 0; step < steps; ++step) {
      CopyStage<kWhole>(now, slot, depth);
      depth += 64;
      if (depth == work_.args.kv.head_dim) depth = 0, ++slot;
      if (!more) continue;
      if (step == 0) Look();
      if (step == min(1, steps - 1)) LookAtTiles();
      if (step == min(2, steps - 1)) LookAtPages();
    }
  }

  // Slot `slot` of every group, query slots counted backwards, and 64 elements
  // of it. What is no query or key of the item is zeros.
  template <bool kWhole>
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
      if (!from.exists[s]) continue;
      const __nv_bfloat16* source = queries + from.slabs[s];
      int query = 0;
      if (!kWhole) {
        query = from.query - slot + s / split_.heads * kSlabRows * work_.stride;
      }
#pragma unroll
      for (int i = 0; i < kSlabCopies; ++i) {
        const bool exists = kWhole || static_cast<unsigned>(query) <
                                          static_cast<unsigned>(from.rows);
        CopyChunk(
            query_place + (s * kSlabRows + i * kRows) * 128,
            exists ? static_cast<const void*>(source) : work_.args.queries,
            exists);
        source += rows_on;
        if (!kWhole) query += kRows * work_.stride;
      }
    }
    const std::uint32_t key_place = SharedAddress(stage.keys) + place;
    const auto* const keys =
        static_cast<const __nv_bfloat16*>(work_.args.kv.keys) +
        slot * work_.args.kv.head_dim + depth;
#pragma unroll
    for (int i = 0; i < kKeyCopies; ++i) {
      const bool exists =
          kWhole || i * kRows * work_.stride < from.key_positions - slot;
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
  ItemQueue queue_;
  const int row_, column_;
  RingPosition<kStages> at_;
  int filled_ = 0;
  // Of the item that is copied next.
  int4 listed_, first_, last_;
  int kv_head_;
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
                        (group + 1) * work.stride > item.begin &&
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
  const int steps = work.stride * work.args.kv.head_dim / 64;
  const auto free = [&](int stage) {
    if (threadIdx.x % 32 == 0) shared.empty[stage].Arrive();
  };
  RingPosition<kStages> at;
  float scores[2][64];
  ItemQueue queue(work);
  for (int number = 0; queue.Skip(number == 0 ? blockIdx.x : gridDim.x);
       ++number) {
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
    const ProductItem item = shared.items[number % kItems];
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

std::int64_t HopperProductBytesBeside(const GroupWork& work) {
  return (work.args.kv.kv_heads + 3) / 4 * std::int64_t{sizeof(int4)};
}

LaunchStatus LaunchHopperProducts(const GroupWork& work, int multiprocessors,
                                  CUstream_st* stream) {
  if (auto status = LaunchDependent(
          ListProducts,
          {static_cast<unsigned>(work.args.kv.kv_heads), kListThreads, 0}, work,
          stream, "launch of the list of group products");
      !status.ok()) {
    return status;
  }
  return LaunchDependent(
      HopperGroupProducts,
      {static_cast<unsigned>(multiprocessors), kThreads, kSharedBytes}, work,
      stream, "launch of group products");
}

}  // namespace sparseserve::cuda
