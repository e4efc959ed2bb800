#include "engine/backend/create_backend.h"
#include "engine/backend/create_cpu_backend.h"
#include "engine/base/status_macros.h"

namespace sparseserve {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(
    const BackendOptions& options) {
  RETURN_IF_ERROR(CheckDeviceName(options.device));
  if (options.device == "cuda") {
    return absl::FailedPreconditionError(
        "device is \"cuda\", but this program was built without CUDA: build it "
        "where nvcc 12.4 or later is found, or use --device=cpu");
  }
  return CreateCpuBackend(options);
}

}  // namespace sparseserve
