#include "engine/backend/cuda/hopper_prefill_attention.h"
#include "engine/backend/cuda/hopper_prefill_launch.cuh"

namespace sparseserve::cuda {

LaunchStatus PrepareHopperPrefill() {
  if (auto status = AllowSharedMemory<64, FullSpeed>(); !status.ok()) {
    return status;
  }
  return AllowSharedMemory<128, FullSpeed>();
}

LaunchStatus LaunchHopperPrefill(const PrefillAttentionArgs& args,
                                 int thread_blocks, std::int32_t* counters,
                                 CUstream_st* stream) {
  return args.kv.head_dim == 64 ? LaunchPrefill<64, FullSpeed>(
                                      args, thread_blocks, counters, stream)
                                : LaunchPrefill<128, FullSpeed>(
                                      args, thread_blocks, counters, stream);
}

}  // namespace sparseserve::cuda
