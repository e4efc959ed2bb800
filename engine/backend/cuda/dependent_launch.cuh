#pragma once

#include <cuda_runtime.h>

#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/launch_status.h"

namespace sparseserve::cuda {

// Until the launches before this one are done and what they wrote can be read.
// A kernel that was launched with LaunchDependent() calls it in every thread
// before it reads or writes what another launch does.
__device__ __forceinline__ void WaitForEarlierLaunches() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next launch begin, as far as its own wait.
__device__ __forceinline__ void LetNextLaunchBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Queues a kernel that may begin while the one before it ends (programmatic
// dependent launch; on older devices it begins behind it).
template <typename... Parameters, typename... Arguments>
LaunchStatus LaunchDependent(void (*kernel)(Parameters...), dim3 blocks,
                             dim3 threads, cudaStream_t stream,
                             const char* name, Arguments... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return StatusOf(cudaLaunchKernelEx(&config, kernel,
                                     static_cast<Parameters>(arguments)...),
                  name);
}

}  // namespace sparseserve::cuda
