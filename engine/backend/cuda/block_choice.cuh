#pragma once

// From scores of blocks to the blocks of a list, by one thread block: the best
// k, or the smallest set with a share of the sum, forced blocks before others,
// ties to the lower index. The threshold is found by histograms of weights over
// ever narrower ranges of keys, until a bin has one key; what is added up are
// integers, so no order of adding shows.

#include <cstdint>

namespace sparseserve::cuda {

// A row of blocks in shared memory. `keys` ascend as scores do.
struct BlockRow {
  std::uint32_t* keys;
  std::uint32_t* weights;  // 0 of forced blocks
  int count = 0;
};

__host__ __device__ constexpr int BlockRowBytes(int blocks) {
  return blocks * 8;
}

// Blocks with a key above `key`, and the first `equals` of those with it.
struct Threshold {
  std::uint32_t key = 0;
  unsigned equals = 0;
};

constexpr int kChoiceBinBits = 10;
constexpr int kChoiceBins = 1 << kChoiceBinBits;

// What thread blocks of kThreads threads add up in.
template <int kThreads>
struct ChoiceScratch {
  unsigned long long sums[2][kThreads / 32];
  double totals[kThreads / 32];
  // Of FindThreshold():
  unsigned bins[kChoiceBins];
  unsigned of_warps[kThreads / 32];
  uint3 extremes[kThreads / 32];
  unsigned found_bin, found_above, found_weight;
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

// Where among bins the weights from the last one down reach `need`: the thread
// that finds it writes the bin, the weights above it and its own.
template <int kThreads>
__device__ __forceinline__ void FindBin(unsigned need,
                                        ChoiceScratch<kThreads>& scratch) {
  constexpr int kEach = kChoiceBins / kThreads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int last = kChoiceBins - 1 - static_cast<int>(threadIdx.x) * kEach;
  unsigned bins[kEach], own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    bins[i] = scratch.bins[last - i];
    own += bins[i];
  }
  unsigned sum = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_up_sync(0xffffffffu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) scratch.of_warps[warp] = sum;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) {
    if (i < warp) sum += scratch.of_warps[i];
  }
  unsigned above = sum - own;
  if (above >= need || sum < need) return;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (above < need && above + bins[i] >= need) {
      scratch.found_bin = last - i;
      scratch.found_above = above;
      scratch.found_weight = bins[i];
    }
    above += bins[i];
  }
}

// The smallest set of blocks whose weights, but for forced ones', reach `need`.
// REQUIRES: equal keys have equal weights, unless forced, and greater keys no
// smaller ones; all weights together reach `need` and are below 2^32; need is
// above 0. All threads call together, after a barrier.
template <int kThreads>
__device__ __forceinline__ Threshold FindThreshold(
    const BlockRow& row, unsigned need, ChoiceScratch<kThreads>& scratch) {
  // Keys in question, all at first; `need` counts from above them on.
  std::uint32_t low = 0, high = 0xffffffffu;
  unsigned weight = 0, number = 0;
  int shift = -1;  // the first round only finds the keys there are
  std::uint32_t bin_low = 0;
  while (true) {
    // The extremes of what is in the bin that was found, and how many.
    std::uint32_t least = 0xffffffffu, greatest = 0;
    unsigned count = 0;
    for (int b = threadIdx.x; b < row.count; b += kThreads) {
      const std::uint32_t key = row.keys[b];
      const bool is_in = row.weights[b] > 0 && key >= low && key <= high &&
                         (shift < 0 || (key - low) >> shift == bin_low);
      if (!is_in) continue;
      least = min(least, key);
      greatest = max(greatest, key);
      ++count;
    }
    least = __reduce_min_sync(0xffffffffu, least);
    greatest = __reduce_max_sync(0xffffffffu, greatest);
    count = __reduce_add_sync(0xffffffffu, count);
    if (threadIdx.x % 32 == 0) {
      scratch.extremes[threadIdx.x / 32] = {least, greatest, count};
    }
    for (int i = threadIdx.x; i < kChoiceBins; i += kThreads) {
      scratch.bins[i] = 0;
    }
    __syncthreads();
    low = 0xffffffffu, high = 0, number = 0;
#pragma unroll
    for (int i = 0; i < kThreads / 32; ++i) {
      const uint3 of_warp = scratch.extremes[i];
      low = min(low, of_warp.x);
      high = max(high, of_warp.y);
      number += of_warp.z;
    }
    if (shift >= 0 && low == high) break;
    shift = max(0, 32 - __clz(high - low) - kChoiceBinBits);
    for (int b = threadIdx.x; b < row.count; b += kThreads) {
      const std::uint32_t key = row.keys[b];
      if (key < low || key > high || row.weights[b] == 0) continue;
      atomicAdd(&scratch.bins[(key - low) >> shift], row.weights[b]);
    }
    __syncthreads();
    FindBin<kThreads>(need, scratch);
    __syncthreads();
    bin_low = scratch.found_bin;
    need -= scratch.found_above;
    weight = scratch.found_weight;
  }
  // All equal ones have the same weight.
  const unsigned each = weight / max(number, 1u);
  return {low, each == 0 ? 0 : (need - 1) / each + 1};
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
