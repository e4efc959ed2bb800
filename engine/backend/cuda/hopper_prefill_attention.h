#pragma once

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/prefill_attention.h"

namespace sparseserve::cuda {

// Compute capability 9.0a. Once for each device, before the first launch.
LaunchStatus PrepareHopperPrefill();

// Queues one launch of at most `thread_blocks` thread blocks; `counters` as
// PrefillWork has them. REQUIRES: `args` that PrefillAttention::Run() takes,
// with at least one tile.
LaunchStatus LaunchHopperPrefill(const PrefillAttentionArgs& args,
                                 int thread_blocks, std::int32_t* counters,
                                 CUstream_st* stream);

// Likewise for lists that have skip_below: kernels of their own.
LaunchStatus PrepareHopperSkippingPrefill();
LaunchStatus LaunchHopperSkippingPrefill(const PrefillAttentionArgs& args,
                                         int thread_blocks,
                                         std::int32_t* counters,
                                         CUstream_st* stream);

}  // namespace sparseserve::cuda
