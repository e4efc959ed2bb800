#pragma once

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

struct GroupWork;

// Compute capability 9.0a. Once for each device, before the first launch.
LaunchStatus PrepareHopperProducts();

// Bytes that `work.product_items` needs for each of `work.product_tiles`, and
// beside these.
std::int64_t HopperProductBytes(const GroupWork& work);
std::int64_t HopperProductBytesBeside(const GroupWork& work);

// Queues two launches, which leave what group_scores.cuh says of antidiagonals.
// REQUIRES: work.stride > 0.
LaunchStatus LaunchHopperProducts(const GroupWork& work, int multiprocessors,
                                  CUstream_st* stream);

}  // namespace sparseserve::cuda
