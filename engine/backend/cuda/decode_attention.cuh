#pragma once

// Decode attention for compute capability 8.0 and later, with mma.sync and
// cp.async.
//
// Work split: equal shares of listed blocks (decode_work.cuh), one for each
// thread block; each of four warps takes 16 keys of every block, for all query
// heads of the KV head at once, and runs by itself until a pair ends. A fifth
// warp adds up what they have of pairs that end before the share does.
// Memory traffic: each listed key and value once; parts of results once each
// way through L2, two for each thread block at most.
// Limits: head_dim 64 or 128, 64-token pages, up to 16 query heads a KV head.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/arrival_counter.cuh"
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

// A pair that is done with, or what a share has of it.
struct FinishedPair {
  int pair = -1;            // -1: no more of them for the fifth warp
  int first = 0, last = 0;  // thread blocks that have blocks of it
  int first_row = 0;        // eight at a time

  __device__ __forceinline__ bool shared() const { return first != last; }
};

template <int kHeadDim, int kRingBytes>
struct DecodeShared {
  static constexpr int kStages = kRingBytes / (64 * kHeadDim * 4);
  struct Stage {
    KvSlice<kHeadDim> keys, values;
  };
  Stage ring[kDecodeWarps][kStages];
  // Eight rows at a time. The eight columns from 8 c on of row r lie at
  // 8 (c ^ r / 2).
  float sums[kDecodeWarps][8][kHeadDim];
  float2 totals[kDecodeWarps][kDecodeGroup];  // maximum, sum of weights
  ShareScratch share;
  FinishedPair finished;
  int came_last[2];  // of the four warps and of the fifth
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

template <class State, int kRingBytes>
__global__ void __launch_bounds__(kDecodeThreads, 2)
    DecodeAttentionKernel(const __grid_constant__ DecodeWork work) {
  constexpr int kHeadDim = State::kHeadDim;
  using Shared = DecodeShared<kHeadDim, kRingBytes>;
  constexpr int kStages = Shared::kStages;
  constexpr unsigned kAll = 0xffffffffu;
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  FetchTables(work);
  // Before anyone leaves: what follows waits for this launch alone.
  WaitForDependency();
  LetDependentsStart();
  const int share_units = FindShare(work, shared.share);
  if (share_units == 0) return;
  const DecodeShare& share = shared.share.share;
  const int warp = threadIdx.x / 32;
  if (warp == kDecodeWarps) return JoinPassedPairs<State>(work, shared);
  const int kv_heads = work.args.kv.kv_heads;
  auto& ring = shared.ring[warp];

  // 32 plans, and the 32 behind them once copies have come that far.
  UnitCursor cursor = share.begin;
  UnitPlan plans = PlanUnits(work, cursor), later_plans = plans;
  const auto copy_unit = [&](int unit, int unit_at_work) {
    if (unit < share_units) {
      if (unit % 32 == 0 && unit > 0) {
        later_plans = PlanUnits(work, cursor);
        if (warp == 0) FetchQueries<kHeadDim>(work, later_plans);
      }
      const bool later = unit / 32 != unit_at_work / 32;
      const UnitPlan plan = later ? later_plans : plans;
      const int page = __shfl_sync(kAll, plan.page, unit % 32);
      const int visible = __shfl_sync(kAll, plan.visible, unit % 32);
      const int kv_head = __shfl_sync(kAll, plan.pair, unit % 32) % kv_heads;
      const std::int64_t at =
          ((static_cast<std::int64_t>(page) * kv_heads + kv_head) * 64 +
           warp * kSliceKeys) *
          kHeadDim;
      auto& stage = ring[unit % kStages];
      const int rows = visible - warp * kSliceKeys;
      stage.keys.Load(static_cast<const __nv_bfloat16*>(work.args.kv.keys) + at,
                      rows);
      stage.values.Load(
          static_cast<const __nv_bfloat16*>(work.args.kv.values) + at, rows);
    }
    CommitCopies();
  };

  const float scale = work.args.scale * kLog2E;
  State state;
  // First without anything to multiply: copies are written once, since code has
  // to be fetched too before a short share's end.
  for (int unit = 1 - kStages;; ++unit) {
    if (unit % 32 == 0 && unit > 0) plans = later_plans;
    copy_unit(unit + kStages - 1, unit);
    if (unit < 0) continue;
    if (unit == 0 && warp == 0) FetchQueries<kHeadDim>(work, plans);
    FinishedPair finished = {__shfl_sync(kAll, plans.pair, unit % 32)};
    const int index = __shfl_sync(kAll, plans.index, unit % 32);
    const int units = __shfl_sync(kAll, plans.units, unit % 32);
    const int visible = __shfl_sync(kAll, plans.visible, unit % 32);
    if (unit == 0 || index == 0) state.Begin(work, finished.pair);
    WaitForCopies<kStages - 1>();
    __syncwarp();
    const auto& stage = ring[unit % kStages];
    state.Add(stage.keys, stage.values, visible - warp * kSliceKeys, scale);
    __syncwarp();
    const bool ends_share = unit + 1 == share_units;
    if (index + 1 != units && !ends_share) continue;
    const PairOwners owners = share.OwnersOf(unit, index, units);
    finished.first = owners.first;
    finished.last = owners.last;
    if (ends_share) return FinishShare(work, state, finished, shared);
    PassPair(work, state, finished, shared);
  }
}

}  // namespace sparseserve::cuda
