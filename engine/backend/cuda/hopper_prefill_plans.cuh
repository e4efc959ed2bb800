#pragma once

// How one warp of every thread block turns lists and page tables into rows to
// copy, ahead of the thread that copies.

#include <cstdint>

#include "engine/backend/cuda/hopper_copies.cuh"
#include "engine/backend/cuda/prefill_work.cuh"

namespace sparseserve::cuda {

// Up to 32 slots of one item, and the item.
struct PlannedSlots {
  WorkItem item;
  std::int32_t first_slot = 0;
  // Row of the KV matrix [pages * kv_heads * 64, head_dim] where each begins.
  std::int32_t kv_rows[32] = {};
};

constexpr int kPlans = 8;

// From the warp that plans to the thread that copies. A plan is the end of a
// chain of five dependent loads, which ahead of time cost nothing.
struct PlanQueue {
  PlannedSlots plans[kPlans];
  Barrier full[kPlans];   // 32 arrivals
  Barrier empty[kPlans];  // 1
};

// Fetches items until there are none and queues their plans. Run by one warp of
// every thread block. Whichever ends last makes the counters ready for the next
// launch.
__device__ __forceinline__ void PlanItems(const PrefillWork& work,
                                          PlanQueue& queue) {
  const int lane = threadIdx.x % 32;
  RingPosition<kPlans> at;
  const auto publish = [&](const WorkItem& item, int first_slot, int kv_row) {
    PlannedSlots& plan = queue.plans[at.stage];
    queue.empty[at.stage].Wait(at.parity ^ 1);
    plan.kv_rows[lane] = kv_row;
    if (lane == 0) {
      plan.item = item;
      plan.first_slot = first_slot;
    }
    queue.full[at.stage].Arrive();
    at.Advance();
  };
  int next = lane == 0 ? atomicAdd(work.counters, 1) : 0;
  for (;;) {
    const int index = __shfl_sync(0xffffffffu, next, 0);
    if (index >= work.items) break;
    // The next item's number is on its way while this one is planned.
    if (lane == 0) next = atomicAdd(work.counters, 1);
    const PlannedList planned = PlanList(work, index);
    int slot = 0;
    do {
      publish(planned.item, slot, KvRow(work, planned, slot + lane));
      slot += 32;
    } while (slot < planned.item.slots);
  }
  publish(WorkItem(), 0, 0);
  if (lane == 0) {
    __threadfence();
    if (atomicAdd(work.counters + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      work.counters[0] = 0;
      work.counters[1] = 0;
    }
  }
}

}  // namespace sparseserve::cuda
