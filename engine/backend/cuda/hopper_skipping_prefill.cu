#include "engine/backend/cuda/hopper_prefill_attention.h"
#include "engine/backend/cuda/hopper_prefill_launch.cuh"

namespace sparseserve::cuda {

LaunchStatus PrepareHopperSkippingPrefill() {
  if (auto status = AllowSharedMemory<64, SkippingBlocks>(); !status.ok()) {
    return status;
  }
  return AllowSharedMemory<128, SkippingBlocks>();
}

LaunchStatus LaunchHopperSkippingPrefill(const PrefillAttentionArgs& args,
                                         int thread_blocks,
                                         std::int32_t* counters,
                                         CUstream_st* stream) {
  return args.kv.head_dim == 64 ? LaunchPrefill<64, SkippingBlocks>(
                                      args, thread_blocks, counters, stream)
                                : LaunchPrefill<128, SkippingBlocks>(
                                      args, thread_blocks, counters, stream);
}

}  // namespace sparseserve::cuda
