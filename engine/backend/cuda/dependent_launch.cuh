#pragma once

// Programmatic dependent launch: a kernel's thread blocks may be resident, and
// read what never changes, while the launch ahead of it still runs.

#include <cuda_runtime_api.h>

#include "engine/backend/cuda/cuda_error.h"

namespace sparseserve::cuda {

// Waits until the launches ahead are done and what they wrote shows. Before it,
// nothing may be read that is not constant (weights, gains, tables) and nothing
// written: not only the launch right ahead may still be running.
__device__ __forceinline__ void WaitForDependency() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Once all thread blocks have said so, those of the next launch may come.
__device__ __forceinline__ void LetDependentsStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Brings the 128 bytes around an address of the device nearer. No more than a
// wish: whatever they hold, and whoever writes them, it is safe.
__device__ __forceinline__ void PrefetchToL2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

struct LaunchShape {
  unsigned thread_blocks = 1;
  unsigned threads = 32;
  unsigned shared_bytes = 0;
};

// Queues a kernel that calls WaitForDependency(). Only code for 9.0 does wait;
// elsewhere the launch is one of the ordinary kind.
template <class Args>
LaunchStatus LaunchDependent(void (*kernel)(Args), const LaunchShape& shape,
                             const Args& args, cudaStream_t stream,
                             const char* what) {
  int device = 0, major = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.thread_blocks);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = major == 9 ? 1 : 0;
  return StatusOf(cudaLaunchKernelEx(&config, kernel, args), what);
}

}  // namespace sparseserve::cuda
