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

#include "engine/backend/cuda/decode_join.cuh"
#include "engine/backend/cuda/decode_pair.cuh"
#include "engine/backend/cuda/decode_work.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/mma_sync.cuh"

namespace sparseserve::cuda {

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
