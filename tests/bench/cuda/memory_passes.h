#pragma once

#include <cstdint>

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Queues a launch that reads `bytes` of device memory, a multiple of 16, and
// writes next to nothing: what kernels that only read are measured by. `sink`:
// one word on the device. False if the launch fails.
bool LaunchMemoryRead(const void* memory, std::int64_t bytes,
                      std::uint32_t* sink, CUstream_st* stream);

// Likewise, one that copies them to `to`: what kernels that read and write are
// measured by. REQUIRES: the two do not overlap.
bool LaunchMemoryCopy(const void* from, std::int64_t bytes, void* to,
                      CUstream_st* stream);

}  // namespace sparseserve::cuda
