// Attention of query tiles over lists of KV pages for compute capability 8.0
// and later, with mma.sync and cp.async.
//
// Work split: a thread block for each tile and query head; each of four warps
// multiplies 16 rows by 64 keys at a time.
// Memory traffic: a thread block reads its 64 queries once, and each key and
// value of its list once; the heads of a group follow each other, so that keys
// and values come from L2.
// Limits: head_dim 64 or 128, 64-token pages, tiles of up to 64 rows.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/attention_rows.cuh"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/mma_sync.cuh"
#include "engine/backend/cuda/online_softmax.cuh"
#include "engine/backend/cuda/portable_prefill_attention.h"
#include "engine/backend/cuda/prefill_work.cuh"

namespace sparseserve::cuda {
namespace {

constexpr int kThreads = 128;

struct Matrices {
  const __nv_bfloat16* queries = nullptr;
  std::int64_t query_rows = 0;
  std::int64_t query_stride = 0;
  // [pages * kv_heads * 64, head_dim]
  const __nv_bfloat16* keys = nullptr;
  const __nv_bfloat16* values = nullptr;
};

// 64 rows in shared memory. The 16-byte chunk c of row r lies at chunk
// c ^ (r % 8), so that eight rows' chunks are in different banks.
template <int kHeadDim>
struct RowTile {
  static constexpr int kChunks = kHeadDim / 8;
  __nv_bfloat16 elements[kTileRows][kHeadDim];

  __device__ __forceinline__ std::uint32_t Chunk(int row, int chunk) const {
    return static_cast<std::uint32_t>(
        __cvta_generic_to_shared(&elements[row][(chunk ^ (row % 8)) * 8]));
  }

  // Queues copies of `rows` rows, zeros behind them.
  __device__ __forceinline__ void Load(const __nv_bfloat16* source,
                                       std::int64_t stride, std::int64_t rows) {
#pragma unroll
    for (int i = 0; i < kTileRows * kChunks / kThreads; ++i) {
      const int at = i * kThreads + threadIdx.x;
      const int row = at / kChunks, chunk = at % kChunks;
      const bool exists = row < rows;
      CopyChunk(Chunk(row, chunk),
                source + (exists ? row * stride + chunk * 8 : 0), exists);
    }
  }
};

template <int kHeadDim>
struct PortableShared {
  RowTile<kHeadDim> queries;
  RowTile<kHeadDim> keys[2];
  RowTile<kHeadDim> values[2];
};

// Scores of a warp's 16 rows and 64 keys.
template <int kHeadDim>
__device__ __forceinline__ void Score(
    const std::uint32_t (&queries)[kHeadDim / 16][4],
    const RowTile<kHeadDim>& keys, float (&scores)[32]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (float& score : scores) score = 0.0f;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      std::uint32_t right[4];
      LoadMatrices(keys.Chunk(pair * 16 + lane / 16 * 8 + lane % 8,
                              step * 2 + lane / 8 % 2),
                   right);
      Multiply(scores + pair * 8, queries[step], right[0], right[1]);
      Multiply(scores + pair * 8 + 4, queries[step], right[2], right[3]);
    }
  }
}

template <int kHeadDim>
__device__ __forceinline__ void AddValues(const std::uint32_t (&weights)[16],
                                          const RowTile<kHeadDim>& values,
                                          float (&sums)[kHeadDim / 2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < kHeadDim / 16; ++pair) {
      std::uint32_t right[4];
      LoadTransposed(values.Chunk(step * 16 + lane / 8 % 2 * 8 + lane % 8,
                                  pair * 2 + lane / 16),
                     right);
      Multiply(sums + pair * 8, weights + step * 4, right[0], right[1]);
      Multiply(sums + pair * 8 + 4, weights + step * 4, right[2], right[3]);
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    PortablePrefillAttention(const Matrices matrices, const PrefillWork work) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<PortableShared<kHeadDim>*>(memory);
  const PlannedList planned = PlanList(work, blockIdx.x);
  const WorkItem& item = planned.item;
  const int lane = threadIdx.x % 32;
  const auto load_pages = [&](int slot) {
    if (slot < item.slots) {
      const std::int64_t row = KvRow(work, planned, slot);
      shared.keys[slot % 2].Load(matrices.keys + row * kHeadDim, kHeadDim,
                                 kPageRows);
      shared.values[slot % 2].Load(matrices.values + row * kHeadDim, kHeadDim,
                                   kPageRows);
    }
    CommitCopies();
  };
  shared.queries.Load(
      matrices.queries + item.first_row * matrices.query_stride +
          item.first_head * kHeadDim,
      matrices.query_stride, matrices.query_rows - item.first_row);
  CommitCopies();
  load_pages(item.padding);
  WaitForCopies<1>();
  __syncthreads();
  std::uint32_t queries[kHeadDim / 16][4];
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    LoadMatrices(shared.queries.Chunk(threadIdx.x / 32 * 16 + lane % 16,
                                      step * 2 + lane / 16),
                 queries[step]);
  }

  float sums[kHeadDim / 2];
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  OnlineSoftmax softmax;
  const float scale = work.scale * 1.44269504f;  // log2(e)
  const float distance = -item.skip_below / work.scale;
  int skipped = 0;
  for (int slot = item.padding; slot < item.slots; ++slot) {
    load_pages(slot + 1);
    WaitForCopies<1>();
    __syncthreads();
    float scores[32];
    Score(queries, shared.keys[slot % 2], scores);
    if (slot < item.padding + item.partial_blocks) {
      const int row = FirstRowOfThread();
      const std::uint64_t visible[2] = {
          VisibleKeys(work.lists, item, slot, row),
          VisibleKeys(work.lists, item, slot, row + 8)};
      HideKeys<0>(scores, visible, lane);
    } else if (work.lists.skip_below != nullptr) {
      const int row = FirstRowOfThread();
      const bool below =
          (row >= item.rows || softmax.AreFarBelow(scores, 0, distance)) &&
          (row + 8 >= item.rows || softmax.AreFarBelow(scores, 1, distance));
      if (__all_sync(0xffffffffu, below)) {  // a warp's rows decide together
        ++skipped;
        __syncthreads();
        continue;
      }
    }
    float decay[2];
    softmax.Weigh(scores, scale, decay);
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sums[i] *= decay[i / 2 % 2];
    std::uint32_t weights[16];
    PackWeights(scores, weights);
    AddValues(weights, shared.values[slot % 2], sums);
    __syncthreads();
  }
  if (lane == 0) {
    const int rows = item.rows - static_cast<int>(threadIdx.x) / 32 * 16;
    CountSkipped(work, item, skipped, min(max(rows, 0), 16));
  }
  StoreRows<kHeadDim>(work, item, 0, softmax, sums);
}

template <int kHeadDim>
LaunchStatus Allow() {
  return StatusOf(
      cudaFuncSetAttribute(PortablePrefillAttention<kHeadDim>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           sizeof(PortableShared<kHeadDim>)),
      "shared memory of portable prefill attention");
}

template <int kHeadDim>
LaunchStatus Launch(const PrefillAttentionArgs& args, cudaStream_t stream) {
  const Matrices matrices = {static_cast<const __nv_bfloat16*>(args.queries),
                             args.query_rows, args.query_stride,
                             static_cast<const __nv_bfloat16*>(args.kv.keys),
                             static_cast<const __nv_bfloat16*>(args.kv.values)};
  const PrefillWork work = WorkOf(args, 1, nullptr);
  PortablePrefillAttention<kHeadDim>
      <<<work.items, kThreads, sizeof(PortableShared<kHeadDim>), stream>>>(
          matrices, work);
  return StatusOf(cudaGetLastError(), "launch of portable prefill attention");
}

}  // namespace

LaunchStatus PreparePortablePrefill() {
  if (auto status = Allow<64>(); !status.ok()) return status;
  return Allow<128>();
}

LaunchStatus LaunchPortablePrefill(const PrefillAttentionArgs& args,
                                   CUstream_st* stream) {
  return args.kv.head_dim == 64 ? Launch<64>(args, stream)
                                : Launch<128>(args, stream);
}

}  // namespace sparseserve::cuda
