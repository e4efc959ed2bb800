#pragma once

// Shared memory of prefill attention for compute capability 9.0a, and the
// thread that fills it with queries, keys and values.

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/hopper_copies.cuh"
#include "engine/backend/cuda/hopper_prefill_plans.cuh"
#include "engine/backend/cuda/prefill_work.cuh"

namespace sparseserve::cuda {

// Tests put a class in its place that waits at random, so that copies come late
// or are waited for.
struct FullSpeed {
  // Whether BlockLayout::skip_below is looked at.
  static constexpr bool kSkips = false;
  __device__ static __forceinline__ void BeforeCopy() {}
  __device__ static __forceinline__ void BeforeProducts() {}
};

// What is left out is known only when scores are: they and sums take turns
// then, which costs dense attention a little.
struct SkippingBlocks : FullSpeed {
  static constexpr bool kSkips = true;
};

constexpr int kHeadsOfItem = 2;  // one for each warpgroup that multiplies
constexpr int kWarpgroup = 128;
constexpr int kPrefillThreads = (1 + kHeadsOfItem) * kWarpgroup;
constexpr int kKeysAtOnce = 2 * kPageRows;

// Boxes of 64 columns. A ring's stage is freed by the 8 warps that multiply.
template <int kHeadDim>
struct PrefillShared {
  static constexpr int kBoxes = kHeadDim / 64;
  static constexpr int kQueryStages = 2;
  static constexpr int kKvStages = kHeadDim == 64 ? 4 : 2;
  using QueryBox = __nv_bfloat16[kTileRows][64];
  using KvBox = __nv_bfloat16[kKeysAtOnce][64];

  QueryBox queries[kQueryStages][kHeadsOfItem][kBoxes];
  KvBox keys[kKvStages][kBoxes];
  KvBox values[kKvStages][kBoxes];
  WorkItem items[kQueryStages];  // full and empty as the queries are
  PlanQueue plans;
  Barrier queries_full[kQueryStages], queries_empty[kQueryStages];
  Barrier keys_full[kKvStages], keys_empty[kKvStages];
  Barrier values_full[kKvStages], values_empty[kKvStages];

  __device__ void InitBarriers() {
    constexpr int kReaders = kHeadsOfItem * kWarpgroup / 32;
    for (int i = 0; i < kPlans; ++i) {
      plans.full[i].Init(32);
      plans.empty[i].Init(1);
    }
    for (int i = 0; i < kQueryStages; ++i) {
      queries_full[i].Init(1);
      queries_empty[i].Init(kReaders);
    }
    for (int i = 0; i < kKvStages; ++i) {
      keys_full[i].Init(1);
      keys_empty[i].Init(kReaders);
      values_full[i].Init(1);
      values_empty[i].Init(kReaders);
    }
  }
};

// Boxes begin at multiples of 1024 bytes; dynamic shared memory may not.
template <int kHeadDim>
constexpr int PrefillSharedBytes() {
  return static_cast<int>(sizeof(PrefillShared<kHeadDim>)) + 1024;
}

// The thread that copies.
template <int kHeadDim, class Pace>
class PrefillCopies {
 public:
  using Shared = PrefillShared<kHeadDim>;

  __device__ PrefillCopies(Shared& shared, const CUtensorMap* queries,
                           const CUtensorMap* keys, const CUtensorMap* values)
      : shared_(shared), queries_(queries), keys_(keys), values_(values) {}

  // Until the queue says that there is no more work.
  __device__ void Run() {
    for (RingPosition<kPlans> at;; at.Advance()) {
      shared_.plans.full[at.stage].Wait(at.parity);
      const PlannedSlots& plan = shared_.plans.plans[at.stage];
      if (plan.first_slot == 0) CopyQueries(plan.item);
      if (plan.item.heads == 0) return;
      const int slots = min(32, plan.item.slots - plan.first_slot);
      for (int i = 0; i < slots; i += 2) {
        Pace::BeforeCopy();
        CopyPages(keys_, plan.kv_rows + i, shared_.keys, shared_.keys_full,
                  shared_.keys_empty);
        CopyPages(values_, plan.kv_rows + i, shared_.values,
                  shared_.values_full, shared_.values_empty);
        kv_.Advance();
      }
      shared_.plans.empty[at.stage].Arrive();
    }
  }

 private:
  __device__ void CopyQueries(const WorkItem& item) {
    const int stage = query_.stage;
    Barrier& full = shared_.queries_full[stage];
    shared_.queries_empty[stage].Wait(query_.parity ^ 1);
    query_.Advance();
    shared_.items[stage] = item;
    if (item.heads == 0) {
      full.Arrive();
      return;
    }
    full.ArriveExpecting(item.heads * kHeadDim * kTileRows * 2);
    for (int head = 0; head < item.heads; ++head) {
      for (int box = 0; box < Shared::kBoxes; ++box) {
        CopyBox(queries_, item.first_row,
                (item.first_head + head) * kHeadDim + box * 64,
                shared_.queries[stage][head][box], full);
      }
    }
  }

  __device__ void CopyPages(const CUtensorMap* map, const std::int32_t* rows,
                            typename Shared::KvBox (*ring)[Shared::kBoxes],
                            Barrier* full, Barrier* empty) {
    const int stage = kv_.stage;
    empty[stage].Wait(kv_.parity ^ 1);
    full[stage].ArriveExpecting(kKeysAtOnce * kHeadDim * 2);
    for (int page = 0; page < 2; ++page) {
      for (int box = 0; box < Shared::kBoxes; ++box) {
        CopyBox(map, rows[page], box * 64, ring[stage][box][page * kPageRows],
                full[stage]);
      }
    }
  }

  Shared& shared_;
  const CUtensorMap* queries_;
  const CUtensorMap* keys_;
  const CUtensorMap* values_;
  RingPosition<Shared::kQueryStages> query_;
  RingPosition<Shared::kKvStages> kv_;
};

}  // namespace sparseserve::cuda
