#pragma once

// From scores of blocks to the blocks of a list, by one thread block: the best
// k, or the smallest set with a share of the sum, forced blocks before others,
// ties to the lower index. The threshold is found by bisection; what is added
// up on the way are integers, so no order of adding shows.

#include <cstdint>

namespace sparseserve::cuda {

// A row of blocks in shared memory. `keys` ascend as scores do.
struct BlockRow {
  std::uint32_t* keys;
  std::uint32_t* weights;  // 0 of forced blocks
  int count = 0;
};

// So many blocks at most are left to one warp, which needs no barriers.
constexpr int kBlocksOfWarpSearch = 512;

__host__ __device__ constexpr int BlockRowBytes(int blocks) {
  return blocks * 8;
}

// Blocks with a key above `key`, and the first `equals` of those with it.
struct Threshold {
  std::uint32_t key = 0;
  unsigned equals = 0;
};

// What thread blocks of kThreads threads add up in.
template <int kThreads>
struct ChoiceScratch {
  unsigned long long sums[2][kThreads / 32];
  double totals[kThreads / 32];
  uint3 parts[2][kThreads / 32];
  uint2 threshold;  // key and equals
};

// Floats in order, -0 as 0.
__device__ __forceinline__ std::uint32_t OrderedKey(float score) {
  const std::uint32_t bits = __float_as_uint(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Sum over the thread block, below 2^32; `turn` alternates between calls.
template <int kThreads>
__device__ __forceinline__ unsigned SumOf(unsigned value, int turn,
                                          ChoiceScratch<kThreads>& scratch) {
  value = __reduce_add_sync(0xffffffffu, value);
  if (threadIdx.x % 32 == 0) scratch.sums[turn][threadIdx.x / 32] = value;
  __syncthreads();
  unsigned long long sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) sum += scratch.sums[turn][i];
  return static_cast<unsigned>(sum);
}

template <int kThreads>
__device__ __forceinline__ double TotalOf(double value,
                                          ChoiceScratch<kThreads>& scratch) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  if (threadIdx.x % 32 == 0) scratch.totals[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) sum += scratch.totals[i];
  __syncthreads();
  return sum;
}

// The weights from some key on, and the keys next to it: the least of them, and
// the greatest below.
struct KeySplit {
  unsigned weight = 0;
  std::uint32_t least = 0xffffffffu;
  std::uint32_t below = 0;

  __device__ __forceinline__ void Add(std::uint32_t key, unsigned of_key,
                                      std::uint32_t from) {
    if (of_key == 0) return;
    if (key >= from) {
      weight += of_key;
      least = min(least, key);
    } else {
      below = max(below, key);
    }
  }
  __device__ __forceinline__ void JoinWarp() {
    weight = __reduce_add_sync(0xffffffffu, weight);
    least = __reduce_min_sync(0xffffffffu, least);
    below = __reduce_max_sync(0xffffffffu, below);
  }
};

// split(from) gives the KeySplit of all blocks together, count(key) the number
// of those that have the key and a weight.
template <class Split, class Count>
__device__ __forceinline__ Threshold Bisect(unsigned need, const Split& split,
                                            const Count& count) {
  // Keys in question are low ... high; weights from low and from above high on.
  const KeySplit whole = split(0);
  std::uint32_t low = whole.least;
  std::uint32_t high = split(0xffffffffu).below;
  unsigned from = whole.weight, above = 0;
  while (low < high) {
    const std::uint32_t middle = low + (high - low + 1) / 2;
    const KeySplit halves = split(middle);
    if (halves.weight >= need) {
      low = halves.least;
      from = halves.weight;
    } else {
      high = halves.below;
      above = halves.weight;
    }
  }
  // All equal ones have the same weight.
  const unsigned weight = (from - above) / max(count(low), 1u);
  Threshold found;
  found.key = low;
  found.equals = weight == 0 ? 0 : (need - above - 1) / weight + 1;
  return found;
}

// By one warp, which has all blocks in registers.
__device__ __forceinline__ Threshold BisectByWarp(const BlockRow& row,
                                                  unsigned need) {
  constexpr int kEach = kBlocksOfWarpSearch / 32;
  std::uint32_t keys[kEach], weights[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int b = i * 32 + static_cast<int>(threadIdx.x % 32);
    keys[i] = b < row.count ? row.keys[b] : 0;
    weights[i] = b < row.count ? row.weights[b] : 0;
  }
  return Bisect(
      need,
      [&](std::uint32_t from) {
        KeySplit split;
#pragma unroll
        for (int i = 0; i < kEach; ++i) split.Add(keys[i], weights[i], from);
        split.JoinWarp();
        return split;
      },
      [&](std::uint32_t key) {
        unsigned number = 0;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          number += keys[i] == key && weights[i] > 0;
        }
        return __reduce_add_sync(0xffffffffu, number);
      });
}

// The smallest set of blocks whose weights, but for forced ones', reach `need`.
// REQUIRES: equal keys have equal weights, unless forced, and greater keys no
// smaller ones; all weights together reach `need` and are below 2^32; need is
// above 0, no key with a weight is 2^32 - 1. All threads call together, after a
// barrier.
template <int kThreads>
__device__ __forceinline__ Threshold FindThreshold(
    const BlockRow& row, unsigned need, ChoiceScratch<kThreads>& scratch) {
  if (row.count <= kBlocksOfWarpSearch) {
    if (threadIdx.x < 32) {
      const Threshold found = BisectByWarp(row, need);
      if (threadIdx.x == 0) scratch.threshold = {found.key, found.equals};
    }
    __syncthreads();
    return {scratch.threshold.x, scratch.threshold.y};
  }
  int turn = 0;
  const Threshold found = Bisect(
      need,
      [&](std::uint32_t from) {
        KeySplit split;
        for (int b = threadIdx.x; b < row.count; b += kThreads) {
          split.Add(row.keys[b], row.weights[b], from);
        }
        split.JoinWarp();
        turn ^= 1;
        if (threadIdx.x % 32 == 0) {
          scratch.parts[turn][threadIdx.x / 32] = {split.weight, split.least,
                                                   split.below};
        }
        __syncthreads();
        split = KeySplit();
#pragma unroll
        for (int i = 0; i < kThreads / 32; ++i) {
          const uint3 part = scratch.parts[turn][i];
          split.weight += part.x;
          split.least = min(split.least, part.y);
          split.below = max(split.below, part.z);
        }
        return split;
      },
      [&](std::uint32_t key) {
        unsigned number = 0;
        for (int b = threadIdx.x; b < row.count; b += kThreads) {
          number += row.keys[b] == key && row.weights[b] > 0;
        }
        return SumOf<kThreads>(number, 1, scratch);
      });
  __syncthreads();
  return found;
}

// Calls write(place, block) for every chosen block, places from 0 on in the
// order of blocks: forced ones, which is_forced(block) says, and those that the
// threshold lets in. Returns their number. All threads call together.
template <int kThreads, class IsForced, class Write>
__device__ __forceinline__ int WriteChosen(const BlockRow& row,
                                           const Threshold& threshold,
                                           const IsForced& is_forced,
                                           const Write& write,
                                           ChoiceScratch<kThreads>& scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned lower = (1u << lane) - 1;
  unsigned equals = 0, sure = 0;  // of blocks before
  int turn = 0;
  for (int first = 0; first < row.count; first += kThreads) {
    const int b = first + threadIdx.x;
    const bool exists = b < row.count;
    const bool forced = exists && is_forced(b);
    const bool is_sure = forced || (exists && row.keys[b] > threshold.key);
    const bool is_equal = exists && !is_sure && row.keys[b] == threshold.key;
    const unsigned sure_ones = __ballot_sync(0xffffffffu, is_sure);
    const unsigned equal_ones = __ballot_sync(0xffffffffu, is_equal);
    turn ^= 1;
    if (lane == 0) {
      scratch.sums[turn][warp] =
          static_cast<unsigned long long>(__popc(sure_ones)) << 32 |
          static_cast<unsigned>(__popc(equal_ones));
    }
    __syncthreads();
    unsigned sure_before = sure + __popc(sure_ones & lower);
    unsigned equal_before = equals + __popc(equal_ones & lower);
#pragma unroll
    for (int i = 0; i < kThreads / 32; ++i) {
      const unsigned long long of_warp = scratch.sums[turn][i];
      const unsigned of_sure = static_cast<unsigned>(of_warp >> 32);
      const unsigned of_equal = static_cast<unsigned>(of_warp);
      if (i < warp) {
        sure_before += of_sure;
        equal_before += of_equal;
      }
      sure += of_sure;
      equals += of_equal;
    }
    if (is_sure || (is_equal && equal_before < threshold.equals)) {
      write(static_cast<int>(sure_before + min(equal_before, threshold.equals)),
            b);
    }
  }
  return static_cast<int>(sure + min(equals, threshold.equals));
}

}  // namespace sparseserve::cuda
