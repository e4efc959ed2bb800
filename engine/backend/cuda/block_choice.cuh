#pragma once

// From scores of blocks to the blocks of a list, by one thread block: the best
// k, or the smallest set with a share of the sum, forced blocks before others,
// ties to the lower index. The threshold is found bit by bit; what is added up
// on the way are integers, so no order of adding shows.

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

// What thread blocks of kThreads threads add up in.
template <int kThreads>
struct ChoiceScratch {
  unsigned long long sums[2][kThreads / 32];
  double totals[kThreads / 32];
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

// Blocks with a key above `key`, and the first `equals` of those with it.
struct Threshold {
  std::uint32_t key = 0;
  unsigned equals = 0;
};

// The smallest set of blocks whose weights, but for forced ones', reach `need`.
// REQUIRES: equal keys have equal weights, unless forced; all weights together
// reach `need` and are below 2^32; need is above 0. All threads call together,
// after a barrier.
template <int kThreads>
__device__ __forceinline__ Threshold FindThreshold(
    const BlockRow& row, unsigned need, ChoiceScratch<kThreads>& scratch) {
  std::uint32_t key = 0;
  int turn = 0;
  const auto sum_from = [&](std::uint32_t least) {
    unsigned sum = 0;
    for (int b = threadIdx.x; b < row.count; b += kThreads) {
      if (row.keys[b] >= least) sum += row.weights[b];
    }
    turn ^= 1;
    return SumOf<kThreads>(sum, turn, scratch);
  };
  for (int bit = 31; bit >= 0; --bit) {
    const std::uint32_t raised = key | 1u << bit;
    if (sum_from(raised) >= need) key = raised;
  }
  const unsigned above = key == 0xffffffffu ? 0 : sum_from(key + 1);
  // All equal ones have the same weight.
  const unsigned from = sum_from(key);
  unsigned number = 0;
  for (int b = threadIdx.x; b < row.count; b += kThreads) {
    if (row.keys[b] == key && row.weights[b] > 0) ++number;
  }
  turn ^= 1;
  number = SumOf<kThreads>(number, turn, scratch);
  const unsigned weight = (from - above) / max(number, 1u);
  Threshold found;
  found.key = key;
  found.equals = weight == 0 ? 0 : (need - above - 1) / weight + 1;
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
