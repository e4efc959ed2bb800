#include <string>

#include "engine/backend/create_backend.h"
#include "engine/backend/create_cpu_backend.h"
#include "engine/backend/cuda/cuda_backend.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// Why a GPU is not for what only a CPU does; empty if it may be.
std::string OnlyOnCpu(const BackendOptions& options) {
  if (options.compute_dtype == "f32") return "compute_dtype f32";
  if (options.simd != "auto") return StrCat("simd ", options.simd);
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(
    const BackendOptions& options) {
  RETURN_IF_ERROR(CheckDeviceName(options.device));
  if (options.device == "cpu") return CreateCpuBackend(options);
  std::string reason = OnlyOnCpu(options);
  if (reason.empty()) {
    auto made = cuda::CreateCudaBackend(options);
    if (made.ok()) return made;
    reason = std::string(made.status().message());
  }
  if (options.device == "cuda") {
    return absl::FailedPreconditionError(
        StrCat("device is \"cuda\": ", reason));
  }
  return CreateCpuBackend(options, StrCat("no GPU: ", reason));
}

}  // namespace sparseserve
