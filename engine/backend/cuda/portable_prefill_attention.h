#pragma once

#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/prefill_attention.h"

namespace sparseserve::cuda {

// Compute capability 8.0 and later. Once for each device, before the first
// launch.
LaunchStatus PreparePortablePrefill();

// Queues one launch. REQUIRES: `args` that PrefillAttention::Run() takes, with
// at least one tile.
LaunchStatus LaunchPortablePrefill(const PrefillAttentionArgs& args,
                                   CUstream_st* stream);

}  // namespace sparseserve::cuda
