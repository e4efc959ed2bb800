#pragma once

// How decode attention's work is dealt out. A unit is a listed block of a pair
// of sequence and KV head; a pair that lists nothing has one unit that shows no
// key. Units of all pairs in a row are cut into equal shares, one for each
// thread block, so a share may hold the end of one pair, whole pairs and the
// beginning of another; or pairs by themselves, where that is no worse.
// Everything follows from lengths and lists on the device.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/decode_attention.h"
#include "engine/backend/cuda/dependent_launch.cuh"

namespace sparseserve::cuda {

constexpr int kDecodeWarps = 4;  // that multiply; one more joins
constexpr int kMultiplyThreads = 32 * kDecodeWarps;
constexpr int kDecodeThreads = kMultiplyThreads + 32;
constexpr int kDecodeGroup = 16;  // query heads of a KV head, at most

// What a thread block leaves of pairs that it shares with others: part 0 of the
// pair that began before its share, part 1 of the one that goes on behind it.
struct DecodeWorkspace {
  float* sums = nullptr;  // [thread_blocks, 2, 16, head_dim], relative to
  // [thread_blocks, 2, 16]: maximum of scores, sum of weights.
  float2* totals = nullptr;
  // [thread_blocks]: parts that are done of the pair that begins in the block's
  // share and ends behind it. Zero whenever no launch is under way.
  std::int32_t* counters = nullptr;
};

struct DecodeWork {
  DecodeAttentionArgs args;
  DecodeWorkspace workspace;
  int pairs = 0;  // sequences * kv_heads
  int group = 0;
};

// Asks for lengths, counts and page tables while the launch ahead still runs:
// whatever it writes, they are near when they are read.
__device__ __forceinline__ void FetchTables(const DecodeWork& work) {
  const DecodeAttentionArgs& args = work.args;
  int line = blockIdx.x * kDecodeThreads + threadIdx.x;
  const auto fetch = [&](const void* begin, std::int64_t bytes) {
    const std::int64_t lines = bytes / 128 + 1;  // wherever lines begin
    if (begin != nullptr && line >= 0 && line < lines) {
      PrefetchToL2(static_cast<const char*>(begin) +
                   min(line * std::int64_t{128}, bytes - 1));
    }
    line -= static_cast<int>(min(lines, std::int64_t{1} << 30));
  };
  // Each multiprocessor has to find out where arrays lie in memory.
  if (threadIdx.x == 0) {
    for (const void* array :
         {static_cast<const void*>(args.lengths),
          static_cast<const void*>(args.lists.block_counts),
          static_cast<const void*>(args.lists.block_offsets),
          static_cast<const void*>(args.lists.blocks),
          static_cast<const void*>(args.kv.page_tables), args.queries}) {
      if (array != nullptr) PrefetchToL2(array);
    }
  }
  fetch(args.lengths, args.sequences * std::int64_t{4});
  fetch(args.lists.block_counts, work.pairs * std::int64_t{4});
  fetch(args.lists.block_offsets, work.pairs * std::int64_t{8});
  fetch(args.kv.page_tables, args.sequences * args.kv.page_table_stride * 4);
}

struct PairSize {
  int listed = 0;  // may be kAllBlocks
  int tokens = 0;

  __device__ __forceinline__ int units() const {
    return max(listed < 0 ? (tokens + 63) / 64 : listed, 1);
  }
};

__device__ __forceinline__ PairSize SizeOf(const DecodeWork& work, int pair) {
  return {work.args.lists.block_counts[pair],
          work.args.lengths[pair / work.args.kv.kv_heads]};
}

// A unit by its pair and its number there.
struct UnitCursor {
  int pair = 0;
  int index = 0;
};

// Thread blocks that have units of a pair.
struct PairOwners {
  int first = 0, last = 0;
};

struct DecodeShare {
  int all_units = 0;
  int blocks = 0;  // thread blocks that have a share
  int first = 0;   // of all units
  int units = 0;   // 0: this thread block has none
  UnitCursor begin;
  bool of_one_pair = false;
  PairOwners owners;  // of that pair

  // Of a pair of `units`, number `index` of which is unit `unit` of the share.
  __device__ __forceinline__ PairOwners OwnersOf(int unit, int index,
                                                 int units_of_pair) const {
    if (of_one_pair) return owners;
    const int first_of_pair = first + unit - index;
    return {OwnerOf(first_of_pair), OwnerOf(first_of_pair + units_of_pair - 1)};
  }

 private:
  __device__ __forceinline__ int OwnerOf(int unit) const {
    return static_cast<int>(((unit + 1LL) * blocks - 1) / all_units);
  }
};

struct ShareScratch {
  int warp_sums[2][kDecodeThreads / 32];
  DecodeShare share;
};

// Sums of what lower threads have, and of what all have.
struct ThreadSums {
  int before = 0, all = 0;

  // All threads call together; `warp_sums` is not used again.
  __device__ __forceinline__ ThreadSums(int value,
                                        int (&warp_sums)[kDecodeThreads / 32]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int until = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int lower = __shfl_up_sync(0xffffffffu, until, step);
      if (lane >= step) until += lower;
    }
    if (lane == 31) warp_sums[warp] = until;
    __syncthreads();
    before = until - value;
#pragma unroll
    for (int i = 0; i < kDecodeThreads / 32; ++i) {
      if (i < warp) before += warp_sums[i];
      all += warp_sums[i];
    }
  }
};

// This thread block's share into scratch, and how many units it has; all of its
// threads call together. If that makes no share longer than equal ones are,
// each has units of one pair alone: then a thread block has one part to be
// joined, and none in the middle.
__device__ __forceinline__ int FindShare(const DecodeWork& work,
                                         ShareScratch& scratch) {
  const int pairs_a_thread = (work.pairs + kDecodeThreads - 1) / kDecodeThreads;
  const int first_pair = threadIdx.x * pairs_a_thread;
  const int end_pair = min(first_pair + pairs_a_thread, work.pairs);
  int units = 0;
#pragma unroll 4
  for (int pair = first_pair; pair < end_pair; ++pair) {
    units += SizeOf(work, pair).units();
  }
  const ThreadSums unit_sums(units, scratch.warp_sums[0]);
  const int block = blockIdx.x, all = unit_sums.all;
  const int most = (all + gridDim.x - 1) / gridDim.x;
  const auto shares_of = [&](int pair) {
    return (SizeOf(work, pair).units() + most - 1) / most;
  };
  DecodeShare share;
  share.all_units = all;
  int shares = 0, shares_before = 0;
  if (work.pairs <= static_cast<int>(gridDim.x)) {
    for (int pair = first_pair; pair < end_pair; ++pair) {
      shares += shares_of(pair);
    }
    const ThreadSums sums(shares, scratch.warp_sums[1]);
    shares_before = sums.before;
    share.of_one_pair = sums.all <= static_cast<int>(gridDim.x);
    share.blocks = sums.all;
  }
  if (!share.of_one_pair) share.blocks = min(static_cast<int>(gridDim.x), all);
  if (block >= share.blocks) return 0;
  int pair = first_pair;
  if (share.of_one_pair) {
    int before = shares_before;
    if (before <= block && block < before + shares) {
      int number = shares_of(pair);
      for (; block >= before + number; number = shares_of(pair)) {
        before += number;
        ++pair;
      }
      const int size = SizeOf(work, pair).units();
      // The first `rest` of them have one unit more.
      const int least_size = size / number, rest = size - least_size * number;
      const int at = block - before;
      const int from = least_size * at + min(at, rest);
      share.units = least_size + (at < rest ? 1 : 0);
      share.begin = {pair, from};
      share.owners = {before, before + number - 1};
      scratch.share = share;
    }
  } else {
    share.first = static_cast<int>(std::int64_t{all} * block / share.blocks);
    share.units =
        static_cast<int>((block + std::int64_t{1}) * all / share.blocks) -
        share.first;
    int unit = unit_sums.before;  // where this thread's pairs begin
    if (unit <= share.first && share.first < unit + units) {
      for (int size = SizeOf(work, pair).units(); share.first >= unit + size;
           size = SizeOf(work, pair).units()) {
        unit += size;
        ++pair;
      }
      share.begin = {pair, share.first - unit};
      scratch.share = share;
    }
  }
  __syncthreads();
  return scratch.share.units;
}

// What is to be known of one unit.
struct UnitPlan {
  int pair = 0;
  int index = 0;    // of the pair's units
  int units = 0;    // the pair's
  int page = 0;     // 0 where nothing is visible
  int visible = 0;  // keys of the block from its first on; 0 to 64
};

// Plans 32 units, each lane one, and moves the cursor behind them. Loads that
// depend on each other so cost their latency once in 32 units, also where pairs
// are short. All lanes call together. Units behind the last pair show nothing.
__device__ __forceinline__ UnitPlan PlanUnits(const DecodeWork& work,
                                              UnitCursor& cursor) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  const DecodeAttentionArgs& args = work.args;
  // Sizes of 32 pairs from the cursor's on, and where their units end.
  PairSize size = {32, 0};
  std::int64_t offset = 0;
  if (cursor.pair + lane < work.pairs) {
    size = SizeOf(work, cursor.pair + lane);
    // With the sizes, not after them; what lists nothing may have none.
    if (args.lists.block_offsets != nullptr) {
      offset = args.lists.block_offsets[cursor.pair + lane];
    }
  }
  int until = min(size.units() - (lane == 0 ? cursor.index : 0), 32);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int lower = __shfl_up_sync(kAll, until, step);
    if (lane >= step) until += lower;
  }
  // The first pair that ends behind this lane's unit.
  int ahead = 0;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    if (__shfl_sync(kAll, until, ahead + step - 1) <= lane) ahead += step;
  }
  const int before = __shfl_sync(kAll, until, max(ahead - 1, 0));
  size = {__shfl_sync(kAll, size.listed, ahead),
          __shfl_sync(kAll, size.tokens, ahead)};
  offset = __shfl_sync(kAll, offset, ahead);
  UnitPlan plan;
  plan.pair = cursor.pair + ahead;
  plan.index = ahead == 0 ? lane + cursor.index : lane - before;
  plan.units = size.units();
  if (plan.pair < work.pairs && size.tokens > 0 && size.listed != 0) {
    const int block =
        size.listed < 0 ? plan.index : args.lists.blocks[offset + plan.index];
    plan.visible = min(max(size.tokens - block * 64, 0), 64);
    if (plan.visible > 0) {
      plan.page = args.kv.page_tables[plan.pair / args.kv.kv_heads *
                                          args.kv.page_table_stride +
                                      block];
    }
  }
  const bool ends = plan.index + 1 == plan.units;
  cursor.pair = __shfl_sync(kAll, ends ? plan.pair + 1 : plan.pair, 31);
  cursor.index = __shfl_sync(kAll, ends ? 0 : plan.index + 1, 31);
  return plan;
}

}  // namespace sparseserve::cuda
