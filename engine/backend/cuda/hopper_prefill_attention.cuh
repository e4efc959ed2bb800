#pragma once

// Attention of query tiles over lists of KV pages for compute capability 9.0a.
//
// Work split: persistent thread blocks take work items (prefill_work.cuh) from
// a counter. One warp plans, one thread copies queries, keys and values into
// rings in shared memory, two warpgroups multiply: each 64 rows of one query
// head, both over the same 128 keys at a time. While one computes weights, the
// other has the tensor cores; within a warpgroup the scores of the next keys
// are computed beside the sums of the previous ones.
// Memory traffic: an item reads its 2 x 64 queries once, and each key and value
// of its list once, from L2 as far as the items of a KV head fit there.
// Limits: head_dim 64 or 128, 64-token pages, tiles of up to 64 rows.

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "engine/backend/cuda/attention_rows.cuh"
#include "engine/backend/cuda/hopper_copies.cuh"
#include "engine/backend/cuda/hopper_prefill_copies.cuh"
#include "engine/backend/cuda/online_softmax.cuh"
#include "engine/backend/cuda/prefill_work.cuh"
#include "engine/backend/cuda/wgmma.cuh"

namespace sparseserve::cuda {

// One of the warpgroups that multiply: head `head` of each item.
template <int kHeadDim, class Pace>
class PrefillProducts {
 public:
  using Shared = PrefillShared<kHeadDim>;

  __device__ __forceinline__ PrefillProducts(const PrefillWork& work,
                                             Shared& shared, int head)
      : work_(work), shared_(shared), head_(head) {}

  // Until an item says that there is no more work.
  __device__ __forceinline__ void Run() {
    // The first turn at the tensor cores is head 0's.
    if (!Pace::kSkips && head_ == 1) PassTurn();
    for (RingPosition<Shared::kQueryStages> at;; at.Advance()) {
      shared_.queries_full[at.stage].Wait(at.parity);
      const WorkItem item = shared_.items[at.stage];
      __syncwarp();  // one lane says for all that the item was read
      if (item.heads == 0) return;
      if (head_ < item.heads && Pace::kSkips) {
        AttendSkipping(item, at.stage);
      } else if (head_ < item.heads) {
        Attend(item, at.stage);
      } else {
        LetPass(item, at.stage);
      }
    }
  }

 private:
  static constexpr int kFirstTurn = 1;  // named barriers, one for each head
  static constexpr int kFirstVote = 3;  // likewise
  static constexpr int kBoth = kHeadsOfItem * kWarpgroup;

  // An item without a head for this warpgroup.
  __device__ __forceinline__ void LetPass(const WorkItem& item, int stage) {
    Free(shared_.queries_empty[stage]);
    for (int step = 0; step < item.slots / 2; ++step) {
      shared_.keys_full[kv_.stage].Wait(kv_.parity);
      Free(shared_.keys_empty[kv_.stage]);
      shared_.values_full[kv_.stage].Wait(kv_.parity);
      Free(shared_.values_empty[kv_.stage]);
      kv_.Advance();
    }
  }

  __device__ __forceinline__ void Attend(const WorkItem& item, int stage) {
    float sums[kHeadDim / 2];
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    OnlineSoftmax softmax;
    const int steps = item.slots / 2;
    if (steps == 0) {
      Free(shared_.queries_empty[stage]);
      StoreRows<kHeadDim>(work_, item, head_, softmax, sums);
      return;
    }
    const float scale = work_.scale * 1.44269504f;  // log2(e)
    const std::uint64_t queries =
        DescribeBoxes(shared_.queries[stage][head_], 0);
    float scores[64];
    float decay[2];
    std::uint32_t weights[32];

    shared_.keys_full[kv_.stage].Wait(kv_.parity);
    Pace::BeforeProducts();
    FenceProducts();
    Score(queries, scores);
    CommitProducts();
    WaitProducts<0>();
    Pin(scores);
    Free(shared_.keys_empty[kv_.stage]);
    if (steps == 1) Free(shared_.queries_empty[stage]);
    Hide(item, 0, scores);
    softmax.Weigh(scores, scale, decay);
    PackWeights(scores, weights);

    // Scores of this step beside sums of the previous one's weights.
    const auto advance = [&](int step, auto hides) {
      const RingPosition<Shared::kKvStages> previous = kv_;
      kv_.Advance();
      shared_.keys_full[kv_.stage].Wait(kv_.parity);
      Pace::BeforeProducts();
      if (item.heads == 2) AwaitTurn();
      FenceProducts();
      Score(queries, scores);
      CommitProducts();
      shared_.values_full[previous.stage].Wait(previous.parity);
      FenceProducts();
      AddValues(previous.stage, weights, step > 1, sums);
      CommitProducts();
      if (item.heads == 2) PassTurn();
      WaitProducts<1>();
      Pin(scores);
      Free(shared_.keys_empty[kv_.stage]);
      if (step == steps - 1) Free(shared_.queries_empty[stage]);
      if constexpr (hides.value) Hide(item, step, scores);
      softmax.Weigh(scores, scale, decay);
      WaitProducts<0>();
      Pin(sums);
      Free(shared_.values_empty[previous.stage]);
      PackWeights(scores, weights);
#pragma unroll
      for (int i = 0; i < kHeadDim / 2; ++i) sums[i] *= decay[i / 2 % 2];
    };
    const int masked = (item.padding + item.partial_blocks + 1) / 2;
    int step = 1;
    for (; step < masked; ++step) advance(step, std::true_type());
    for (; step < steps; ++step) advance(step, std::false_type());

    shared_.values_full[kv_.stage].Wait(kv_.parity);
    FenceProducts();
    AddValues(kv_.stage, weights, steps > 1, sums);
    CommitProducts();
    WaitProducts<0>();
    Pin(sums);
    Free(shared_.values_empty[kv_.stage]);
    kv_.Advance();
    StoreRows<kHeadDim>(work_, item, head_, softmax, sums);
  }

  // Likewise; of two full blocks at a time, rows leave out those that
  // BlockLayout::skip_below says.
  __device__ __forceinline__ void AttendSkipping(const WorkItem& item,
                                                 int stage) {
    float sums[kHeadDim / 2];
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    OnlineSoftmax softmax;
    const int steps = item.slots / 2;
    const int masked = (item.padding + item.partial_blocks + 1) / 2;
    if (steps == 0) Free(shared_.queries_empty[stage]);
    const float scale = work_.scale * 1.44269504f;  // log2(e)
    const float distance = -item.skip_below / work_.scale;
    const std::uint64_t queries =
        DescribeBoxes(shared_.queries[stage][head_], 0);
    int skipped = 0;
    for (int step = 0; step < steps; ++step) {
      float scores[64];
      shared_.keys_full[kv_.stage].Wait(kv_.parity);
      Pace::BeforeProducts();
      FenceProducts();
      Score(queries, scores);
      CommitProducts();
      WaitProducts<0>();
      Pin(scores);
      Free(shared_.keys_empty[kv_.stage]);
      if (step == steps - 1) Free(shared_.queries_empty[stage]);
      if (step < masked) Hide(item, step, scores);
      // Also of blocks that are left out: this stage's next copies come later.
      shared_.values_full[kv_.stage].Wait(kv_.parity);
      if (step >= masked && LeavesOut(item, softmax, scores, distance)) {
        skipped += 2;
      } else {
        float decay[2];
        std::uint32_t weights[32];
        softmax.Weigh(scores, scale, decay);
        PackWeights(scores, weights);
#pragma unroll
        for (int i = 0; i < kHeadDim / 2; ++i) sums[i] *= decay[i / 2 % 2];
        FenceProducts();
        AddValues(kv_.stage, weights, true, sums);
        CommitProducts();
        WaitProducts<0>();
        Pin(sums);
      }
      Free(shared_.values_empty[kv_.stage]);
      kv_.Advance();
    }
    if (threadIdx.x % kWarpgroup == 0) {
      CountSkipped(work_, item, skipped, item.rows);
    }
    StoreRows<kHeadDim>(work_, item, head_, softmax, sums);
  }

  // Whether no row of the tile has a use for the step's keys.
  __device__ __forceinline__ bool LeavesOut(const WorkItem& item,
                                            const OnlineSoftmax& softmax,
                                            const float (&scores)[64],
                                            float distance) {
    const int row = FirstRowOfThread();
    const bool first =
        row >= item.rows || softmax.AreFarBelow(scores, 0, distance);
    const bool second =
        row + 8 >= item.rows || softmax.AreFarBelow(scores, 1, distance);
    return AgreeNamed(kFirstVote + head_, kWarpgroup, first && second);
  }

  // scores = queries * keys^T of the current stage.
  __device__ __forceinline__ void Score(std::uint64_t queries,
                                        float (&scores)[64]) {
    const std::uint64_t keys = DescribeBoxes(shared_.keys[kv_.stage], 0);
#pragma unroll
    for (int i = 0; i < kHeadDim / 16; ++i) {
      // 16 columns are 32 bytes of a box.
      const int box = i / 4, inside = i % 4 * 32;
      MultiplyByRows(
          scores,
          Behind(queries, box * sizeof(typename Shared::QueryBox) + inside),
          Behind(keys, box * sizeof(typename Shared::KvBox) + inside), i > 0);
    }
  }

  // sums (+)= weights * values.
  __device__ __forceinline__ void AddValues(int stage,
                                            const std::uint32_t (&weights)[32],
                                            bool adds,
                                            float (&sums)[kHeadDim / 2]) {
    const std::uint64_t values =
        DescribeBoxes(shared_.values[stage], sizeof(typename Shared::KvBox));
#pragma unroll
    for (int i = 0; i < kKeysAtOnce / 16; ++i) {
      MultiplyByColumns(sums, weights + 4 * i, Behind(values, i * 16 * 128),
                        adds || i > 0);
    }
  }

  __device__ __forceinline__ void Hide(const WorkItem& item, int step,
                                       float (&scores)[64]) {
    const DeviceBlockLists& lists = work_.lists;
    const int slot = 2 * step, row = FirstRowOfThread();
    const std::uint64_t first[2] = {VisibleKeys(lists, item, slot, row),
                                    VisibleKeys(lists, item, slot, row + 8)};
    const std::uint64_t second[2] = {
        VisibleKeys(lists, item, slot + 1, row),
        VisibleKeys(lists, item, slot + 1, row + 8)};
    HideKeys<0>(scores, first, threadIdx.x % 32);
    HideKeys<1>(scores, second, threadIdx.x % 32);
  }

  // This warp reads a stage no more.
  __device__ __forceinline__ static void Free(Barrier& empty) {
    if (threadIdx.x % 32 == 0) empty.Arrive();
  }

  __device__ __forceinline__ void AwaitTurn() {
    WaitNamed(kFirstTurn + head_, kBoth);
  }
  __device__ __forceinline__ void PassTurn() {
    ArriveNamed(kFirstTurn + 1 - head_, kBoth);
  }

  const PrefillWork& work_;
  Shared& shared_;
  const int head_;
  RingPosition<Shared::kKvStages> kv_;
};

template <int kHeadDim, class Pace>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    HopperPrefillAttention(const __grid_constant__ CUtensorMap queries,
                           const __grid_constant__ CUtensorMap keys,
                           const __grid_constant__ CUtensorMap values,
                           const __grid_constant__ PrefillWork work) {
  extern __shared__ unsigned char memory[];
  auto& shared = *reinterpret_cast<PrefillShared<kHeadDim>*>(
      memory + (1024 - SharedAddress(memory) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (const CUtensorMap* map : {&queries, &keys, &values}) PrefetchMap(map);
    shared.InitBarriers();
    PublishBarriers();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / kWarpgroup, 0);
  if (warpgroup == 0) {
    GiveRegisters<40>();
    if (threadIdx.x == 0) {
      PrefillCopies<kHeadDim, Pace>(shared, &queries, &keys, &values).Run();
    } else if (threadIdx.x / 32 == 1) {
      PlanItems(work, shared.plans);
    }
  } else {
    TakeRegisters<232>();
    PrefillProducts<kHeadDim, Pace>(work, shared, warpgroup - 1).Run();
  }
}

}  // namespace sparseserve::cuda
