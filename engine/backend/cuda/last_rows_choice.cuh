#pragma once

// From sums of keys and distances to the largest of them. Keys are the sums'
// bits, which ascend as sums do, since none is negative; counts are integers,
// so no order of adding shows.

#include <cstdint>

#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/last_rows_work.cuh"

namespace sparseserve::cuda {

constexpr int kChoiceThreads = 1024;
constexpr int kDigits = 2048;  // of 11 bits

// Keys and distances that are taken before others.
__device__ __forceinline__ int FirstTaken(int kind) {
  return kind == kColumns ? 30 : 100;
}

// The sum of weights at a distance: a block's keys are at 127 distances from
// the rows, so two blocks meet at most of them.
__device__ __forceinline__ float DistanceSum(const LastRowsWork& work, int head,
                                             const LastRows& rows,
                                             int distance) {
  // Element i of block b: distance = first_position - 64 b + i - 63.
  const int ahead = distance - rows.first_position - 1;
  const int element = ahead & 63;
  const int block = (element - ahead) / 64 - 1;
  float sum = 0.0f;
  for (int chunk = 0; chunk < work.chunks; ++chunk) {
    const float* parts =
        work.distance_parts + (std::int64_t{head} * work.chunks + chunk) *
                                  work.args.most_blocks * 128;
    if (block >= 0 && block < rows.blocks()) {
      sum += parts[block * 128 + element];
    }
    if (block + 1 >= 0 && block + 1 < rows.blocks()) {
      sum += parts[(block + 1) * 128 + element + 64];
    }
  }
  return sum;
}

__device__ __forceinline__ float KeySum(const LastRowsWork& work, int head,
                                        int key) {
  float sum = 0.0f;
  for (int chunk = 0; chunk < work.chunks; ++chunk) {
    sum += work.key_sums[(std::int64_t{head} * work.chunks + chunk) *
                             work.args.most_blocks * 64 +
                         key];
  }
  return sum;
}

struct DigitSearch {
  unsigned counts[kDigits];
  unsigned warps[kChoiceThreads / 32];
  unsigned digit, left, at_digit;
};

// Sum of the threads' values up to this one's, its own included.
__device__ __forceinline__ unsigned SumUpTo(unsigned value, unsigned* warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_up_sync(0xffffffffu, value, step);
    if (lane >= step) value += other;
  }
  if (lane == 31) warps[warp] = value;
  __syncthreads();
  const unsigned of_warp = lane < warp ? warps[lane] : 0;
  value += __reduce_add_sync(0xffffffffu, of_warp);
  __syncthreads();
  return value;
}

// The largest digit such that so many counts from it upwards are `need` or
// more; how many of it are needed, and how many there are. REQUIRES: need is
// above 0, all counts together reach it.
__device__ __forceinline__ void FindDigit(DigitSearch& search, unsigned need) {
  const int high = kDigits - 1 - 2 * static_cast<int>(threadIdx.x);
  const unsigned upper = search.counts[high], lower = search.counts[high - 1];
  const unsigned sum = SumUpTo(upper + lower, search.warps);
  const unsigned before = sum - upper - lower;
  if (before < need && need <= sum) {
    const bool is_upper = need <= before + upper;
    search.digit = is_upper ? high : high - 1;
    search.left = is_upper ? need - before : need - before - upper;
    search.at_digit = is_upper ? upper : lower;
  }
  __syncthreads();
}

// A thread block for each head and kind.
__global__ void __launch_bounds__(kChoiceThreads)
    ChooseLargest(const LastRowsWork work) {
  __shared__ DigitSearch search;
  __shared__ unsigned equals[kChoiceThreads / 32];
  WaitForDependency();
  LetDependentsStart();
  const int head = blockIdx.x / 2, kind = blockIdx.x % 2;
  const LastRows rows = RowsOfHead(work, head);
  if (rows.rule < 0) return;
  const std::int64_t array = blockIdx.x * std::int64_t{work.args.most_blocks};
  std::uint32_t* const values = work.values + array * 64;
  const int count = min(work.rules[rows.rule].counts[kind], rows.end);
  const int first = min(FirstTaken(kind), count);
  const unsigned need = count - first;

  for (int i = threadIdx.x; i < kDigits; i += kChoiceThreads) {
    search.counts[i] = 0;
  }
  __syncthreads();
  bool is_garbage = false;
#pragma unroll 4
  for (int i = threadIdx.x; i < rows.end; i += kChoiceThreads) {
    const float sum = kind == kColumns ? KeySum(work, head, i)
                                       : DistanceSum(work, head, rows, i);
    is_garbage = is_garbage || !isfinite(sum);
    const std::uint32_t bits = __float_as_uint(sum) & 0x7fffffffu;
    values[i] = bits;
    if (i >= first) atomicAdd(&search.counts[bits >> 20], 1u);
  }
  is_garbage = __syncthreads_or(is_garbage) != 0;
  if (threadIdx.x == 0) work.is_everything[blockIdx.x] = is_garbage;
  if (is_garbage) return;

  std::uint32_t threshold = 0xffffffffu;
  unsigned left = 0, at_threshold = 0;
  if (need > 0) {
    FindDigit(search, need);
    threshold = search.digit;
    left = search.left;
#pragma unroll
    for (int shift : {9, 0}) {
      const int bits = shift == 9 ? 11 : 9;
      for (int i = threadIdx.x; i < kDigits; i += kChoiceThreads) {
        search.counts[i] = 0;
      }
      __syncthreads();
#pragma unroll 8
      for (int i = threadIdx.x; i < rows.end; i += kChoiceThreads) {
        const std::uint32_t value = values[i];
        if (i >= first && value >> (shift + bits) == threshold) {
          atomicAdd(&search.counts[value >> shift & ((1u << bits) - 1)], 1u);
        }
      }
      __syncthreads();
      FindDigit(search, left);
      threshold = threshold << bits | search.digit;
      left = search.left;
      at_threshold = search.at_digit;
    }
  }

  // Of equal ones the first are taken. A warp has neighbouring words.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int words = rows.blocks() * 2;
  const int each = (words + kChoiceThreads / 32 - 1) / (kChoiceThreads / 32);
  const int begin = warp * each, end = min(begin + each, words);
  const auto is_equal = [&](int i) {
    return i >= first && i < rows.end && values[i] == threshold;
  };
  unsigned before = 0;
  if (at_threshold > left) {
    unsigned number = 0;
    for (int word = begin; word < end; ++word) {
      number += is_equal(word * 32 + lane);
    }
    number = __reduce_add_sync(0xffffffffu, number);
    if (lane == 0) equals[warp] = number;
    __syncthreads();
    before = __reduce_add_sync(0xffffffffu, lane < warp ? equals[lane] : 0);
  }
  auto* const chosen = reinterpret_cast<std::uint32_t*>(work.chosen + array);
#pragma unroll 4
  for (int word = begin; word < end; ++word) {
    const int i = word * 32 + lane;
    const bool equal = is_equal(i);
    const unsigned equal_ones = __ballot_sync(0xffffffffu, equal);
    const bool is_sure =
        i < first || (i < rows.end && need > 0 && values[i] > threshold);
    const unsigned rank = before + __popc(equal_ones & ((1u << lane) - 1));
    const unsigned ones =
        __ballot_sync(0xffffffffu, is_sure || (equal && rank < left));
    before += __popc(equal_ones);
    if (lane == 0) chosen[word] = ones;
  }
}

}  // namespace sparseserve::cuda
