#pragma once

// Where a row of sums is cut, by one thread block: the largest k of them, or
// the smallest set with so much weight. Sums are taken as their bits, which
// ascend as they do, since none is negative. What is added up are integers, so
// no order of adding shows.

#include <cstdint>

namespace sparseserve::cuda {

constexpr int kCutThreads = 1024;
constexpr int kDigits = 2048;  // of 11 bits

// What is above the threshold is in; of what is at it, the first so many that
// `left` of its weight, `at` in all, are in.
struct WeightCut {
  std::uint32_t threshold = 0xffffffffu;  // above every sum
  unsigned left = 0;
  unsigned at = 0;
};

struct CutScratch {
  unsigned weights[kDigits];
  unsigned warps[kCutThreads / 32];
  double totals[kCutThreads / 32];
  unsigned digit, left, at;  // as a WeightCut has them
};

// Sum over the thread block in a fixed order.
__device__ __forceinline__ double CutTotal(double value, CutScratch& scratch) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch.totals[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch.totals[threadIdx.x % 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  return value;
}

// Sum of the threads' values up to this one's, its own included.
__device__ __forceinline__ unsigned SumUpTo(unsigned value, unsigned* warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_up_sync(0xffffffffu, value, step);
    if (lane >= step) value += other;
  }
  __syncthreads();
  if (lane == 31) warps[warp] = value;
  __syncthreads();
  return value + __reduce_add_sync(0xffffffffu, lane < warp ? warps[lane] : 0);
}

// The least and the greatest of some sums.
struct SumRange {
  std::uint32_t least = 0xffffffffu;
  std::uint32_t greatest = 0;

  __device__ __forceinline__ void Add(std::uint32_t sum) {
    least = min(least, sum);
    greatest = max(greatest, sum);
  }
};
__device__ __forceinline__ SumRange RangeOfAll(const SumRange& own,
                                               CutScratch& scratch) {
  const unsigned least = __reduce_min_sync(0xffffffffu, own.least);
  const unsigned greatest = __reduce_max_sync(0xffffffffu, own.greatest);
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    scratch.warps[threadIdx.x / 32] = least;
    scratch.weights[threadIdx.x / 32] = greatest;
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  return {__reduce_min_sync(0xffffffffu, scratch.warps[lane]),
          __reduce_max_sync(0xffffffffu, scratch.weights[lane])};
}

// Weights of the sums, `of` each, by a digit: `bits` bits above `shift` of how
// far a sum is above `least`, of those whose bits above these are `prefix`.
// for_each calls its argument with every sum that this thread has.
template <class ForEach, class WeightOf>
__device__ __forceinline__ void CountDigits(const ForEach& for_each,
                                            const WeightOf& of,
                                            std::uint32_t least, int shift,
                                            int bits, std::uint32_t prefix,
                                            CutScratch& scratch) {
  __syncthreads();
  for (int i = threadIdx.x; i < kDigits; i += kCutThreads) {
    scratch.weights[i] = 0;
  }
  __syncthreads();
  const std::uint32_t mask = (1u << bits) - 1;
  for_each([&](std::uint32_t sum) {
    const std::uint32_t digits = (sum - least) >> shift;
    if (digits >> bits == prefix) {
      atomicAdd(&scratch.weights[digits & mask], of(sum));
    }
  });
  __syncthreads();
}

// The largest digit such that the weights from it upwards are `need` or more.
__device__ __forceinline__ WeightCut FindDigit(unsigned need,
                                               CutScratch& scratch) {
  const int high = kDigits - 1 - 2 * static_cast<int>(threadIdx.x);
  const unsigned upper = scratch.weights[high];
  const unsigned lower = scratch.weights[high - 1];
  const unsigned sum = SumUpTo(upper + lower, scratch.warps);
  const unsigned before = sum - upper - lower;
  if (before < need && need <= sum) {
    const bool is_upper = need <= before + upper;
    scratch.digit = is_upper ? high : high - 1;
    scratch.left = need - before - (is_upper ? 0 : upper);
    scratch.at = is_upper ? upper : lower;
  }
  __syncthreads();
  return {scratch.digit, scratch.left, scratch.at};
}

// The smallest set of sums whose weights are `need` or more. REQUIRES: equal
// sums have equal weights; all weights together reach `need` and are below
// 2^32; `range` is that of the sums, which are below 2^31, and what for_each
// calls with besides is 2^32 - 1. Without a need nothing is in. All threads
// call together.
template <class ForEach, class WeightOf>
__device__ __forceinline__ WeightCut FindCut(const ForEach& for_each,
                                             const WeightOf& of, unsigned need,
                                             const SumRange& range,
                                             CutScratch& scratch) {
  WeightCut cut;
  if (need == 0) return cut;
  // Digits of the range that there is, so that threads seldom add to the same.
  int bits = 11;
  int shift = max(32 - __clz(range.greatest - range.least) - bits, 0);
  cut = {0, need, 0};
  for (;;) {
    CountDigits(for_each, of, range.least, shift, bits, cut.threshold, scratch);
    const WeightCut digit = FindDigit(cut.left, scratch);
    cut = {cut.threshold << bits | digit.threshold, digit.left, digit.at};
    if (shift == 0) break;
    bits = min(shift, 11);
    shift -= bits;
  }
  cut.threshold += range.least;
  return cut;
}

// Weights of sums in units of 2^-31 of their total.
struct MassWeights {
  float unit = 0.0f;

  __device__ __forceinline__ unsigned operator()(std::uint32_t sum) const {
    return static_cast<unsigned>(__float2ull_rn(__uint_as_float(sum) * unit));
  }
};

// The smallest set that has a share of the total, which is finite and positive.
template <class ForEach>
__device__ __forceinline__ WeightCut FindMass(const ForEach& for_each,
                                              float mass, double total,
                                              MassWeights* weights,
                                              CutScratch& scratch) {
  weights->unit = static_cast<float>(2147483648.0 / total);
  double sum = 0;  // exact
  SumRange range;
  for_each([&](std::uint32_t value) {
    sum += (*weights)(value);
    range.Add(value);
  });
  sum = CutTotal(sum, scratch);
  range = RangeOfAll(range, scratch);
  const double need = ceil(static_cast<double>(mass) * sum);
  return FindCut(for_each, *weights, static_cast<unsigned>(need < 1 ? 1 : need),
                 range, scratch);
}

// How many sums at the threshold are in.
__device__ __forceinline__ unsigned EqualsIn(const WeightCut& cut,
                                             unsigned weight) {
  return cut.left == 0 ? 0 : (cut.left - 1) / weight + 1;
}

}  // namespace sparseserve::cuda
