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

// Writes the sums of a kind as bits. Returns whether all are finite, to all
// threads.
__device__ __forceinline__ bool WriteSums(const LastRowsWork& work, int head,
                                          int kind, const LastRows& rows,
                                          std::uint32_t* values) {
  bool is_garbage = false;
#pragma unroll 4
  for (int i = threadIdx.x; i < rows.end; i += kCutThreads) {
    const float sum = kind == kColumns ? KeySum(work, head, i)
                                       : DistanceSum(work, head, rows, i);
    is_garbage = is_garbage || !isfinite(sum);
    values[i] = __float_as_uint(sum) & 0x7fffffffu;
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

// A thread block for each head and kind.
__global__ void __launch_bounds__(kCutThreads)
    ChooseLargest(const LastRowsWork work) {
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
  const WeightCut cut = FindCut(
      [&](const auto& use) {
#pragma unroll 8
        for (int i = threadIdx.x; i < rows.end; i += kCutThreads) {
          if (i >= first) use(values[i]);
        }
      },
      [](std::uint32_t) { return 1u; }, count - first, scratch);
  WriteChosen(values, first, rows.end, cut, rows.blocks() * 2,
              reinterpret_cast<std::uint32_t*>(work.chosen + array), scratch);
}

}  // namespace sparseserve::cuda
