#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "engine/backend/cuda/launch_status.h"

namespace sparseserve::cuda {

// What the runtime says of `what`.
inline LaunchStatus StatusOf(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return LaunchStatus();
  return LaunchStatus::Error(std::string(what) + ": " +
                             cudaGetErrorString(error));
}

}  // namespace sparseserve::cuda
