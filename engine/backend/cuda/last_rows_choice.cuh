#pragma once

// From sums of keys and distances to the largest of them.

#include <cstdint>

#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/last_rows_work.cuh"
#include "engine/backend/cuda/weight_cut.cuh"

namespace sparseserve::cuda {

// Keys and distances that are taken before others.
__device__ __forceinline__ int FirstTaken(int kind) {
  return kind == kColumns ? 30 : 100;
}

constexpr int kHeld = 32;  // sums of a thread at a time
constexpr int kHeldSums = kHeld * kCutThreads;
constexpr std::uint32_t kNoSum = 0xffffffffu;
constexpr std::uint32_t kInfinity = 0x7f800000u;  // its bits; NaNs are above

// Sums of a kind: of elements first + threadIdx.x + k * kCutThreads, 0 behind
// the last.
__device__ __forceinline__ void LoadSums(const LastRowsWork& work, int head,
                                         int kind, const LastRows& rows,
                                         int first, float (&sums)[kHeld]) {
  const int begin = first + static_cast<int>(threadIdx.x);
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  for (int chunk = 0; chunk < work.chunks; ++chunk) {
    const std::int64_t blocks_before =
        (std::int64_t{head} * work.chunks + chunk) * work.args.most_blocks;
    if (kind == kColumns) {
      const float* from = work.key_sums + blocks_before * 64 + begin;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        if (begin + k * kCutThreads < rows.end)
          sums[k] += from[k * kCutThreads];
      }
      continue;
    }
    // A block's keys are at 127 distances from the rows, so two blocks meet at
    // most of them. Element i of block b: distance = first_position - 64 b + i
    // - 63.
    const int ahead = begin - rows.first_position - 1;
    const int element = ahead & 63;
    const int block = (element - ahead) / 64 - 1;
    const auto blocks = static_cast<unsigned>(rows.blocks());
    const float* from = work.distance_parts + blocks_before * 128 + element;
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (begin + k * kCutThreads >= rows.end) continue;
      const int b = block - k * (kCutThreads / 64);
      if (static_cast<unsigned>(b) < blocks) sums[k] += from[b * 128];
      if (static_cast<unsigned>(b + 1) < blocks) {
        sums[k] += from[b * 128 + 128 + 64];
      }
    }
  }
}

// Writes all sums of a kind as bits. Returns whether they are finite, to all
// threads.
__device__ __forceinline__ bool WriteSums(const LastRowsWork& work, int head,
                                          int kind, const LastRows& rows,
                                          std::uint32_t* values) {
  bool is_garbage = false;
  for (int first = 0; first < rows.end; first += kHeldSums) {
    float sums[kHeld];
    LoadSums(work, head, kind, rows, first, sums);
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int i = first + k * kCutThreads + static_cast<int>(threadIdx.x);
      is_garbage = is_garbage || !isfinite(sums[k]);
      if (i < rows.end) values[i] = __float_as_uint(sums[k]) & 0x7fffffffu;
    }
  }
  return __syncthreads_or(is_garbage) == 0;
}

// Bits of the chosen elements before `end`: the `first` first, and those that
// the cut of the others lets in. All threads call together.
__device__ __forceinline__ void WriteChosen(const std::uint32_t* values,
                                            int first, int end,
                                            const WeightCut& cut, int words,
                                            std::uint32_t* chosen,
                                            CutScratch& scratch) {
  // Of equal ones the first are taken. A warp has neighbouring words.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (words + kCutThreads / 32 - 1) / (kCutThreads / 32);
  const int begin_word = warp * each, end_word = min(begin_word + each, words);
  const auto is_equal = [&](int i) {
    return i >= first && i < end && values[i] == cut.threshold;
  };
  unsigned before = 0;
  if (cut.at > cut.left) {
    unsigned number = 0;
    for (int word = begin_word; word < end_word; ++word) {
      number += is_equal(word * 32 + lane);
    }
    number = __reduce_add_sync(0xffffffffu, number);
    __syncthreads();
    if (lane == 0) scratch.warps[warp] = number;
    __syncthreads();
    before =
        __reduce_add_sync(0xffffffffu, lane < warp ? scratch.warps[lane] : 0);
  }
#pragma unroll 4
  for (int word = begin_word; word < end_word; ++word) {
    const int i = word * 32 + lane;
    const bool equal = is_equal(i);
    const unsigned equal_ones = __ballot_sync(0xffffffffu, equal);
    const bool is_sure = i < first || (i < end && values[i] > cut.threshold);
    const unsigned rank = before + __popc(equal_ones & ((1u << lane) - 1));
    const unsigned ones =
        __ballot_sync(0xffffffffu, is_sure || (equal && rank < cut.left));
    before += __popc(equal_ones);
    if (lane == 0) chosen[word] = ones;
  }
}

// The same for sums that threads hold as LoadSums() leaves them; those that are
// not to be compared are kNoSum.
__device__ __forceinline__ void WriteChosenOf(
    const std::uint32_t (&sums)[kHeld], int first, int end,
    const WeightCut& cut, int words, std::uint32_t* chosen,
    CutScratch& scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool has_ties = cut.at > cut.left;
  if (has_ties) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const unsigned ones =
          __ballot_sync(0xffffffffu, sums[k] == cut.threshold);
      if (lane == 0) scratch.weights[k * 32 + warp] = __popc(ones);
    }
    __syncthreads();
    const unsigned number = scratch.weights[threadIdx.x];
    const unsigned sum = SumUpTo(number, scratch.warps);
    scratch.weights[threadIdx.x] = sum - number;
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int word = k * 32 + warp, i = word * 32 + lane;
    if (word >= words) break;
    bool is_in = i < first || (i < end && sums[k] > cut.threshold);
    const bool is_equal = sums[k] == cut.threshold && cut.left > 0;
    if (has_ties) {
      const unsigned ones = __ballot_sync(0xffffffffu, is_equal);
      const unsigned rank =
          scratch.weights[word] + __popc(ones & ((1u << lane) - 1));
      is_in = is_in || (is_equal && rank < cut.left);
    } else {
      is_in = is_in || is_equal;
    }
    const unsigned ones = __ballot_sync(0xffffffffu, is_in);
    if (lane == 0) chosen[word] = ones;
  }
}

// A thread block for each head and kind, whose sums it holds.
// REQUIRES: they are not more than kHeldSums.
__global__ void __launch_bounds__(kCutThreads)
    ChooseLargest(const LastRowsWork work) {
  __shared__ CutScratch scratch;
  WaitForDependency();
  LetDependentsStart();
  const int head = blockIdx.x / 2, kind = blockIdx.x % 2;
  const LastRows rows = RowsOfHead(work, head);
  if (rows.rule < 0 || work.rules[rows.rule].is_flex) return;
  const int count = min(work.rules[rows.rule].counts[kind], rows.end);
  const int first = min(FirstTaken(kind), count);
  float sums[kHeld];
  LoadSums(work, head, kind, rows, 0, sums);
  std::uint32_t held[kHeld];
  std::uint32_t greatest = 0;  // of all
  SumRange range;              // of those that are compared
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int i = k * kCutThreads + static_cast<int>(threadIdx.x);
    held[k] = __float_as_uint(sums[k]) & 0x7fffffffu;
    greatest = max(greatest, held[k]);
    if (i >= first && i < rows.end) {
      range.Add(held[k]);
    } else {
      held[k] = kNoSum;
    }
  }
  const bool is_garbage = __syncthreads_or(greatest >= kInfinity) != 0;
  if (threadIdx.x == 0) work.is_everything[head * 3 + kind] = is_garbage;
  if (is_garbage) return;
  const WeightCut cut = FindCut(
      [&](const auto& use) {
#pragma unroll
        for (int k = 0; k < kHeld; ++k) use(held[k]);
      },
      [](std::uint32_t) { return 1u; }, count - first,
      RangeOfAll(range, scratch), scratch);
  WriteChosenOf(
      held, first, rows.end, cut, rows.blocks() * 2,
      reinterpret_cast<std::uint32_t*>(work.chosen + std::int64_t{blockIdx.x} *
                                                         work.args.most_blocks),
      scratch);
}

// Likewise, of any number.
__global__ void __launch_bounds__(kCutThreads)
    ChooseLargestOfMany(const LastRowsWork work) {
  __shared__ CutScratch scratch;
  WaitForDependency();
  LetDependentsStart();
  const int head = blockIdx.x / 2, kind = blockIdx.x % 2;
  const LastRows rows = RowsOfHead(work, head);
  if (rows.rule < 0 || work.rules[rows.rule].is_flex) return;
  const std::int64_t array = blockIdx.x * std::int64_t{work.args.most_blocks};
  std::uint32_t* const values = work.values + array * 64;
  const int count = min(work.rules[rows.rule].counts[kind], rows.end);
  const int first = min(FirstTaken(kind), count);
  const bool is_sound = WriteSums(work, head, kind, rows, values);
  if (threadIdx.x == 0) work.is_everything[head * 3 + kind] = !is_sound;
  if (!is_sound) return;
  const auto for_each = [&](const auto& use) {
#pragma unroll 8
    for (int i = threadIdx.x; i < rows.end; i += kCutThreads) {
      if (i >= first) use(values[i]);
    }
  };
  SumRange range;
  for_each([&](std::uint32_t sum) { range.Add(sum); });
  const WeightCut cut = FindCut(
      for_each, [](std::uint32_t) { return 1u; }, count - first,
      RangeOfAll(range, scratch), scratch);
  WriteChosen(values, first, rows.end, cut, rows.blocks() * 2,
              reinterpret_cast<std::uint32_t*>(work.chosen + array), scratch);
}

}  // namespace sparseserve::cuda
