#pragma once

// The end of a tile: from sums in registers to output rows. Elements lie as
// wgmma.cuh says, which is also how four warps of mma.sync have them.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/online_softmax.cuh"
#include "engine/backend/cuda/prefill_work.cuh"

namespace sparseserve::cuda {

// This thread's first row of the tile; its other one is 8 rows below.
__device__ __forceinline__ int FirstRowOfThread() {
  return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
}

// Lanes 4 i to 4 i + 3 hold a 4 x 4 matrix, a row each; then a column each.
__device__ __forceinline__ void TransposeQuad(std::uint32_t (&words)[4],
                                              int lane) {
#pragma unroll
  for (int step = 1; step <= 2; ++step) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int low = step == 1 ? 2 * i : i;
      const std::uint32_t sent = upper ? words[low] : words[low + step];
      const std::uint32_t got = __shfl_xor_sync(0xffffffffu, sent, step);
      words[low] = upper ? got : words[low];
      words[low + step] = upper ? words[low + step] : got;
    }
  }
}

// Divides sums by their denominators; stores rows of the tile, of the item's
// head number `head`, and their log-sum-exp.
template <int kHeadDim>
__device__ __forceinline__ void StoreRows(const PrefillWork& work,
                                          const WorkItem& item, int head,
                                          const OnlineSoftmax& softmax,
                                          const float (&sums)[kHeadDim / 2]) {
  const int lane = threadIdx.x % 32;
  const std::int64_t batch_head = item.first_head + head;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = FirstRowOfThread() + 8 * i;
    const bool stored = row < item.rows;
    const std::int64_t batch_row = item.first_row + row;
    const float denominator = softmax.Denominator(i);
    const bool empty = denominator == 0.0f;
    const float inverse = empty ? 0.0f : 1.0f / denominator;
    if (stored && lane % 4 == 0 && work.lse != nullptr) {
      work.lse[batch_row * work.heads + batch_head] =
          empty ? -INFINITY
                : softmax.maximum(i) * work.scale + logf(denominator);
    }
    auto* output = static_cast<__nv_bfloat16*>(work.output) +
                   batch_row * work.output_stride + batch_head * kHeadDim +
                   lane % 4 * 8;
#pragma unroll
    for (int four = 0; four < kHeadDim / 32; ++four) {
      std::uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int pair = (4 * four + j) * 4 + 2 * i;
        words[j] = PackPair(sums[pair] * inverse, sums[pair + 1] * inverse);
      }
      TransposeQuad(words, lane);
      if (stored) {
        *reinterpret_cast<uint4*>(output + four * 32) =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

}  // namespace sparseserve::cuda
