#include "engine/backend/create_cpu_backend.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_backend.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

absl::StatusOr<std::optional<ComputeDtype>> ParseComputeDtype(
    const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "f32") return ComputeDtype::kF32;
  if (name == "bf16") return ComputeDtype::kBF16;
  return absl::InvalidArgumentError(absl::StrCat(
      "compute_dtype is \"", name, "\"; allowed: auto, f32, bf16"));
}

absl::StatusOr<cpu::SimdLevel> ParseSimdLevel(const std::string& name) {
  if (name == "auto") return cpu::SimdLevel::kAvx512;
  for (const cpu::SimdLevel level :
       {cpu::SimdLevel::kScalar, cpu::SimdLevel::kSse4, cpu::SimdLevel::kAvx2,
        cpu::SimdLevel::kAvx512}) {
    if (name == cpu::SimdLevelName(level)) return level;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "simd is \"", name, "\"; allowed: auto, scalar, sse4, avx2, avx512"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const BackendOptions& options, std::string note) {
  cpu::CpuBackendOptions cpu_options;
  cpu_options.note = std::move(note);
  cpu_options.threads = options.threads;
  cpu_options.max_rows = options.max_rows;
  ASSIGN_OR_RETURN(cpu_options.compute_dtype,
                   ParseComputeDtype(options.compute_dtype));
  ASSIGN_OR_RETURN(cpu_options.simd, ParseSimdLevel(options.simd));
  return cpu::CreateCpuBackend(cpu_options);
}

absl::Status CheckDeviceName(const std::string& name) {
  if (name == "auto" || name == "cpu" || name == "cuda") {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device is \"", name, "\"; allowed: auto, cpu, cuda"));
}

}  // namespace sparseserve
