#pragma once

// How decode attention's parts become results: first those of a thread block's
// warps, then those of thread blocks.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/arrival_counter.cuh"
#include "engine/backend/cuda/decode_pair.cuh"
#include "engine/backend/cuda/decode_work.cuh"
#include "engine/backend/cuda/online_softmax.cuh"

namespace sparseserve::cuda {

// A pair that is done with, or what a share has of it.
struct FinishedPair {
  int pair = -1;            // -1: no more of them for the fifth warp
  int first = 0, last = 0;  // thread blocks that have blocks of it
  int first_row = 0;        // eight at a time

  __device__ __forceinline__ bool shared() const { return first != last; }
};

// Four columns of one row, to which parts are added in a fixed order.
struct RowPart {
  float maximum = -INFINITY;
  float denominator = 0.0f;
  float4 sums = {0.0f, 0.0f, 0.0f, 0.0f};

  // One that has seen no key has a maximum of -infinity and nothing else.
  template <int kParts>
  __device__ __forceinline__ void Add(const float2 (&totals)[kParts],
                                      const float4 (&parts)[kParts],
                                      float scale) {
    float largest = maximum;
#pragma unroll
    for (int i = 0; i < kParts; ++i) largest = fmaxf(largest, totals[i].x);
    // Where no part has seen a key: -infinity - -infinity is no number.
    const float base = largest == -INFINITY ? 0.0f : largest * scale;
    const float own = ExpBase2(maximum * scale - base);
    maximum = largest;
    denominator *= own;
    sums = {sums.x * own, sums.y * own, sums.z * own, sums.w * own};
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const float decay = ExpBase2(totals[i].x * scale - base);
      denominator += totals[i].y * decay;
      sums.x += parts[i].x * decay;
      sums.y += parts[i].y * decay;
      sums.z += parts[i].z * decay;
      sums.w += parts[i].w * decay;
    }
  }

  __device__ __forceinline__ void Store(const DecodeWork& work, int pair,
                                        int row, int column) const {
    const DecodeAttentionArgs& args = work.args;
    const int sequence = pair / args.kv.kv_heads;
    const int head = pair % args.kv.kv_heads * work.group + row;
    const bool empty = denominator == 0.0f;
    const float inverse = empty ? 0.0f : 1.0f / denominator;
    auto* output = static_cast<__nv_bfloat16*>(args.output) +
                   sequence * args.output_stride +
                   static_cast<std::int64_t>(head) * args.kv.head_dim + column;
    *reinterpret_cast<uint2*>(output) =
        make_uint2(PackPair(sums.x * inverse, sums.y * inverse),
                   PackPair(sums.z * inverse, sums.w * inverse));
    if (column == 0 && args.lse != nullptr) {
      args.lse[static_cast<std::int64_t>(sequence) * args.heads + head] =
          empty ? -INFINITY : maximum * args.scale + logf(denominator);
    }
  }
};

// Where in the workspace a thread block's part of a pair is that begins in the
// share of `first_block`.
__device__ __forceinline__ int PartOf(int block, int first_block) {
  return 2 * block + (block == first_block ? 1 : 0);
}

// Barriers by number. The first two are between the four warps that multiply
// and the fifth: room for sums is free, is full. The third is the four's.
constexpr int kRoomFree = 1, kRoomFull = 2, kFourWarps = 3;

template <int kThreads>
__device__ __forceinline__ void SyncAt(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kThreads) : "memory");
}
template <int kThreads>
__device__ __forceinline__ void ArriveAt(int barrier) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(kThreads) : "memory");
}

// Who joins: the four warps, or the fifth.
template <int kThreads>
struct Joiners {
  static constexpr bool kFour = kThreads == kMultiplyThreads;
  __device__ __forceinline__ static int Thread() {
    return kFour ? threadIdx.x : threadIdx.x % 32;
  }
  __device__ __forceinline__ static void Sync() {
    if constexpr (kFour) {
      SyncAt<kThreads>(kFourWarps);
    } else {
      __syncwarp();
    }
  }
};

// Adds what the warps have of eight rows: to results, or to the workspace where
// the pair has more parts.
template <int kHeadDim, int kThreads, class Shared>
__device__ __forceinline__ void JoinWarps(const DecodeWork& work,
                                          const Shared& shared,
                                          const FinishedPair& finished) {
  constexpr int kFours = kHeadDim / 4;
  const int rows = min(work.group - finished.first_row, 8);
  const int part = PartOf(blockIdx.x, finished.first);
  for (int at = Joiners<kThreads>::Thread(); at < rows * kFours;
       at += kThreads) {
    const int row = at / kFours, column = at % kFours * 4;
    const int batch_row = finished.first_row + row;
    float2 totals[kDecodeWarps];
    float4 sums[kDecodeWarps];
#pragma unroll
    for (int warp = 0; warp < kDecodeWarps; ++warp) {
      totals[warp] = shared.totals[warp][batch_row];
      sums[warp] = *reinterpret_cast<const float4*>(
          &shared.sums[warp][row][column ^ (row / 2 * 8)]);
    }
    RowPart joined;
    joined.Add(totals, sums, work.args.scale * kLog2E);
    if (!finished.shared()) {
      joined.Store(work, finished.pair, batch_row, column);
      continue;
    }
    const std::int64_t at_row =
        static_cast<std::int64_t>(part) * kDecodeGroup + batch_row;
    __stcg(reinterpret_cast<float4*>(work.workspace.sums + at_row * kHeadDim +
                                     column),
           joined.sums);
    if (column == 0) {
      __stcg(work.workspace.totals + at_row,
             make_float2(joined.maximum, joined.denominator));
    }
  }
}

// Adds the parts of all thread blocks that have one, in their order.
template <class State, int kThreads>
__device__ __forceinline__ void JoinParts(const DecodeWork& work,
                                          const FinishedPair& finished) {
  constexpr int kHeadDim = State::kHeadDim, kFours = kHeadDim / 4;
  constexpr int kAtOnce = State::kTiles == 1 ? 8 : 6;  // as registers allow
  for (int at = Joiners<kThreads>::Thread(); at < work.group * kFours;
       at += kThreads) {
    const int row = at / kFours, column = at % kFours * 4;
    RowPart joined;
    for (int next = finished.first; next <= finished.last; next += kAtOnce) {
      float2 totals[kAtOnce];
      float4 sums[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        totals[i] = {-INFINITY, 0.0f};
        sums[i] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (next + i > finished.last) continue;
        const std::int64_t at_row =
            static_cast<std::int64_t>(PartOf(next + i, finished.first)) *
                kDecodeGroup +
            row;
        totals[i] = __ldcg(work.workspace.totals + at_row);
        sums[i] = __ldcg(reinterpret_cast<const float4*>(
            work.workspace.sums + at_row * kHeadDim + column));
      }
      joined.Add(totals, sums, work.args.scale * kLog2E);
    }
    joined.Store(work, finished.pair, row, column);
  }
}

// Whether this thread block's part is the last of the pair's that came; then
// what the others wrote is there to be read.
template <int kThreads, class Shared>
__device__ __forceinline__ bool CameLast(const DecodeWork& work,
                                         const FinishedPair& finished,
                                         Shared& shared) {
  int& came_last = shared.came_last[Joiners<kThreads>::kFour ? 0 : 1];
  Joiners<kThreads>::Sync();
  if (Joiners<kThreads>::Thread() == 0) {
    std::int32_t* const counter = work.workspace.counters + finished.first;
    const bool last = CountUp(counter) == finished.last - finished.first;
    if (last) *counter = 0;
    came_last = last;
  }
  Joiners<kThreads>::Sync();
  return came_last != 0;
}

// A warp's sums of eight rows to where they are joined.
template <class State, class Shared>
__device__ __forceinline__ void LeaveSums(const State& state, int first_row,
                                          Shared& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = lane % 4 * 2;  // and the next
#pragma unroll
  for (int tile = 0; tile < State::kTiles; ++tile) {
    if (tile * 8 != first_row) continue;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float denominator = state.softmax[tile].Denominator(i);
      if (lane < 4) {
        shared.totals[warp][first_row + row + i] =
            make_float2(state.softmax[tile].maximum[i], denominator);
      }
    }
#pragma unroll
    for (int step = 0; step < State::kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = step * 16 + i / 2 * 8 + lane / 4;
        shared.sums[warp][row + i % 2][column ^ (row / 2 * 8)] =
            state.sums[tile][step][i];
      }
    }
  }
}

// The end of a pair before the share's: the fifth warp does the rest.
template <class State, class Shared>
__device__ __forceinline__ void PassPair(const DecodeWork& work,
                                         const State& state,
                                         FinishedPair finished,
                                         Shared& shared) {
  for (; finished.first_row < work.group; finished.first_row += 8) {
    SyncAt<kDecodeThreads>(kRoomFree);
    if (threadIdx.x == 0) shared.finished = finished;
    LeaveSums(state, finished.first_row, shared);
    ArriveAt<kDecodeThreads>(kRoomFull);
  }
}

// The end of the share, which lets the fifth warp go.
template <class State, class Shared>
__device__ __forceinline__ void FinishShare(const DecodeWork& work,
                                            const State& state,
                                            FinishedPair finished,
                                            Shared& shared) {
  SyncAt<kDecodeThreads>(kRoomFree);
  if (threadIdx.x == 0) shared.finished.pair = -1;
  ArriveAt<kDecodeThreads>(kRoomFull);
  for (; finished.first_row < work.group; finished.first_row += 8) {
    LeaveSums(state, finished.first_row, shared);
    SyncAt<kMultiplyThreads>(kFourWarps);
    JoinWarps<State::kHeadDim, kMultiplyThreads>(work, shared, finished);
    SyncAt<kMultiplyThreads>(kFourWarps);
  }
  if (finished.shared() && CameLast<kMultiplyThreads>(work, finished, shared)) {
    JoinParts<State, kMultiplyThreads>(work, finished);
  }
}

// What the fifth warp does.
template <class State, class Shared>
__device__ __forceinline__ void JoinPassedPairs(const DecodeWork& work,
                                                Shared& shared) {
  ArriveAt<kDecodeThreads>(kRoomFree);
  while (true) {
    SyncAt<kDecodeThreads>(kRoomFull);
    const FinishedPair finished = shared.finished;
    if (finished.pair < 0) return;
    JoinWarps<State::kHeadDim, 32>(work, shared, finished);
    __syncwarp();
    ArriveAt<kDecodeThreads>(kRoomFree);
    if (finished.first_row + 8 < work.group || !finished.shared()) continue;
    if (CameLast<32>(work, finished, shared)) {
      JoinParts<State, 32>(work, finished);
    }
  }
}

}  // namespace sparseserve::cuda
