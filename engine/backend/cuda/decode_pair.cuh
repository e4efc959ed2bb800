#pragma once

// What a warp does with its keys of a block, in decode attention: scores,
// weights and sums by mma.sync.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/decode_work.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/mma_sync.cuh"
#include "engine/backend/cuda/online_softmax.cuh"

namespace sparseserve::cuda {

constexpr float kLog2E = 1.44269504f;
constexpr int kSliceKeys = 64 / kDecodeWarps;  // a warp's, of each block

// A warp's keys of one block, or its values, in shared memory. The 16-byte
// chunk c of row r lies at chunk c ^ (r % 8), so that eight rows' chunks are in
// different banks.
template <int kHeadDim>
struct KvSlice {
  static constexpr int kChunks = kHeadDim / 8;
  uint4 chunks[kSliceKeys][kChunks];

  __device__ __forceinline__ std::uint32_t Chunk(int row, int chunk) const {
    return static_cast<std::uint32_t>(
        __cvta_generic_to_shared(&chunks[row][chunk ^ (row % 8)]));
  }

  // Queues copies of the first `rows` rows, zeros behind them: what is there
  // may be NaN, and zero times NaN is.
  __device__ __forceinline__ void Load(const __nv_bfloat16* source, int rows) {
#pragma unroll
    for (int i = 0; i < kSliceKeys * kChunks / 32; ++i) {
      const int at = i * 32 + threadIdx.x % 32;
      const int row = at / kChunks;
      CopyChunk(Chunk(row, at % kChunks), source + at * 8, row < rows);
    }
  }
};

// Running maximum and sum of two heads, of which a thread has two keys' scores
// at a time; the eight lanes with the same lane % 4 share the heads. `scale` is
// the factor of scores times log2(e).
struct HeadSoftmax {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // of this thread's keys

  // Over the lanes that share heads.
  template <class F>
  __device__ __forceinline__ static float OverKeys(float value, F f) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      value = f(value, __shfl_xor_sync(0xffffffffu, value, step));
    }
    return value;
  }

  // Turns scores into weights relative to the maximum so far: of head i,
  // scores[i] and scores[2 + i]. decay[i] is what earlier ones, and sums of
  // them, are to be multiplied by.
  __device__ __forceinline__ void Weigh(float (&scores)[4], float scale,
                                        float (&decay)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float most =
          OverKeys(fmaxf(maximum[i], fmaxf(scores[i], scores[2 + i])),
                   [](float x, float y) { return fmaxf(x, y); });
      // A head that has seen no key yet: -infinity - -infinity is no number.
      const float base = most == -INFINITY ? 0.0f : most * scale;
      decay[i] = ExpBase2(maximum[i] * scale - base);
      maximum[i] = most;
      scores[i] = ExpBase2(scores[i] * scale - base);
      scores[2 + i] = ExpBase2(scores[2 + i] * scale - base);
      sum[i] = sum[i] * decay[i] + (scores[i] + scores[2 + i]);
    }
  }

  __device__ __forceinline__ float Denominator(int i) const {
    return OverKeys(sum[i], [](float x, float y) { return x + y; });
  }
};

// What a warp has of the pair that it works on. Products have keys, then
// elements, as rows and eight query heads as columns: few heads are the rule.
template <int kWidth, int kHeadTiles>
struct PairState {
  static constexpr int kHeadDim = kWidth, kTiles = kHeadTiles;
  static constexpr int kSteps = kHeadDim / 16;
  // Sums of scores, so that fewer products wait for each other; more heads have
  // more products anyway, and no registers left.
  static constexpr int kChains = kTiles == 1 ? 2 : 1;
  std::uint32_t queries[kTiles][kSteps][2];
  HeadSoftmax softmax[kTiles];
  // Of element 16 step + lane / 4 (and 8 more), heads lane % 4 * 2 and the
  // next.
  float sums[kTiles][kSteps][4];

  __device__ __forceinline__ void Begin(const DecodeWork& work, int pair) {
    const int lane = threadIdx.x % 32, kv_heads = work.args.kv.kv_heads;
    const auto* rows =
        static_cast<const __nv_bfloat16*>(work.args.queries) +
        pair / kv_heads * work.args.query_stride +
        static_cast<std::int64_t>(pair % kv_heads) * work.group * kHeadDim;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int head = tile * 8 + lane / 4;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = step * 16 + i * 8 + lane % 4 * 2;
          queries[tile][step][i] =
              head < work.group ? *reinterpret_cast<const std::uint32_t*>(
                                      rows + head * kHeadDim + column)
                                : 0u;
        }
#pragma unroll
        for (float& sum : sums[tile][step]) sum = 0.0f;
      }
      softmax[tile] = HeadSoftmax();
    }
  }

  // Adds the first `visible` keys of the slice.
  __device__ __forceinline__ void Add(const KvSlice<kHeadDim>& keys,
                                      const KvSlice<kHeadDim>& values,
                                      int visible, float scale) {
    const int lane = threadIdx.x % 32;
    float chains[kTiles][kChains][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      std::uint32_t left[4];
      LoadMatrices(keys.Chunk(lane % 16, step * 2 + lane / 16), left);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        Multiply(chains[tile][step % kChains], left, queries[tile][step][0],
                 queries[tile][step][1]);
      }
    }
    std::uint32_t weights[kTiles][2];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float scores[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[i] = chains[tile][0][i];
        if constexpr (kChains == 2) scores[i] += chains[tile][1][i];
      }
      if (visible < kSliceKeys) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool shown = i / 2 * 8 + lane / 4 < visible;
          scores[i] = shown ? scores[i] : -INFINITY;
        }
      }
      float decay[2];
      softmax[tile].Weigh(scores, scale, decay);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[tile][step][i] *= decay[i % 2];
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        weights[tile][i] =
            Transpose(PackPair(scores[2 * i], scores[2 * i + 1]));
      }
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      std::uint32_t left[4];
      LoadTransposed(
          values.Chunk(lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2),
          left);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        Multiply(sums[tile][step], left, weights[tile][0], weights[tile][1]);
      }
    }
  }
};

// Asks for the queries of pairs that begin within the 32 units.
template <int kHeadDim>
__device__ __forceinline__ void FetchQueries(const DecodeWork& work,
                                             const UnitPlan& plan) {
  if (plan.index != 0 || plan.pair >= work.pairs) return;
  const int kv_heads = work.args.kv.kv_heads;
  const auto* rows =
      static_cast<const __nv_bfloat16*>(work.args.queries) +
      plan.pair / kv_heads * work.args.query_stride +
      static_cast<std::int64_t>(plan.pair % kv_heads) * work.group * kHeadDim;
  for (int at = 0; at < work.group * kHeadDim; at += 64) {
    PrefetchToL2(rows + at);
  }
}

}  // namespace sparseserve::cuda
