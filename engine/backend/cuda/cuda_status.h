#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sparseserve::cuda {

// What the runtime says of `what`, for the part that knows Abseil: kernels,
// which do not, say it as a LaunchStatus (cuda_error.h). RESOURCE_EXHAUSTED if
// memory is missing, else INTERNAL.
inline absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(what, ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation
             ? absl::ResourceExhaustedError(message)
             : absl::InternalError(message);
}

}  // namespace sparseserve::cuda
