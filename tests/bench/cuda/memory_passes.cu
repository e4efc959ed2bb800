#include <cuda_runtime_api.h>

#include "tests/bench/cuda/memory_passes.h"

namespace sparseserve::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kAhead = 8;  // loads of a thread that are under way together

__global__ void __launch_bounds__(kThreads)
    MemoryReadKernel(const uint4* memory, std::int64_t count,
                     std::uint32_t* sink) {
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads;
  std::uint32_t bits = 0;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
       i < count; i += kAhead * stride) {
    uint4 values[kAhead] = {};
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j * stride < count) values[j] = memory[i + j * stride];
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      bits |= values[j].x ^ values[j].y ^ values[j].z ^ values[j].w;
    }
  }
  // Never so for what is read, but the compiler cannot know.
  if (bits == 0x5a17c0de) *sink = bits;
}

// A thread 16 bytes: enough thread blocks for all that memory can take.
__global__ void __launch_bounds__(kThreads)
    MemoryCopyKernel(const uint4* from, std::int64_t count, uint4* to) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = from[i];
}

}  // namespace

bool LaunchMemoryCopy(const void* from, std::int64_t bytes, void* to,
                      CUstream_st* stream) {
  const std::int64_t count = bytes / 16;
  MemoryCopyKernel<<<static_cast<unsigned>((count + kThreads - 1) / kThreads),
                     kThreads, 0, stream>>>(static_cast<const uint4*>(from),
                                            count, static_cast<uint4*>(to));
  return cudaGetLastError() == cudaSuccess;
}

bool LaunchMemoryRead(const void* memory, std::int64_t bytes,
                      std::uint32_t* sink, CUstream_st* stream) {
  int device = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount,
                         device);
  MemoryReadKernel<<<multiprocessors * 4, kThreads, 0, stream>>>(
      static_cast<const uint4*>(memory), bytes / 16, sink);
  return cudaGetLastError() == cudaSuccess;
}

}  // namespace sparseserve::cuda
