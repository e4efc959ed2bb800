#pragma once

// From arguments to a launch of the kernel, for every pace that it runs at.

#include <algorithm>
#include <cstdint>

#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/hopper_prefill_attention.cuh"
#include "engine/backend/cuda/prefill_attention.h"
#include "engine/backend/cuda/tensor_map.h"

namespace sparseserve::cuda {

template <int kHeadDim, class Pace>
LaunchStatus AllowSharedMemory() {
  return StatusOf(
      cudaFuncSetAttribute(HopperPrefillAttention<kHeadDim, Pace>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           PrefillSharedBytes<kHeadDim>()),
      "shared memory of prefill attention");
}

template <int kHeadDim, class Pace>
LaunchStatus LaunchPrefill(const PrefillAttentionArgs& args, int thread_blocks,
                           std::int32_t* counters, cudaStream_t stream) {
  const std::int64_t kv_rows =
      std::int64_t{args.kv.pages} * args.kv.kv_heads * kPageRows;
  const BoxedMatrix matrices[3] = {
      {args.queries, args.query_rows, std::int64_t{args.heads} * kHeadDim,
       args.query_stride},
      {args.kv.keys, kv_rows, kHeadDim, kHeadDim},
      {args.kv.values, kv_rows, kHeadDim, kHeadDim}};
  CUtensorMap maps[3];
  for (int i = 0; i < 3; ++i) {
    LaunchStatus status = EncodeTensorMap(matrices[i], &maps[i]);
    if (!status.ok()) return status;
  }
  const PrefillWork work = WorkOf(args, kHeadsOfItem, counters);
  HopperPrefillAttention<kHeadDim, Pace>
      <<<std::min(thread_blocks, work.items), kPrefillThreads,
         PrefillSharedBytes<kHeadDim>(), stream>>>(maps[0], maps[1], maps[2],
                                                   work);
  return StatusOf(cudaGetLastError(), "launch of prefill attention");
}

}  // namespace sparseserve::cuda
