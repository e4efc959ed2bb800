#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/simd_level.h"

namespace sparseserve::cpu {

struct CpuBackendOptions {
  int threads = 0;  // 0: one per core this process may use
  // Unset: kBF16 where the CPU multiplies bf16 in hardware, else kF32. kBF16
  // on another CPU keeps KV in bf16 and multiplies prefill rows in float, and
  // from SSE4 on decode rows in integers as everywhere.
  std::optional<ComputeDtype> compute_dtype;
  SimdLevel simd = SimdLevel::kAvx512;  // a cap; lower if the CPU has less
  int max_rows = 512;                   // rows that one call may carry
  std::string note;                     // DeviceInfo::note
};

inline constexpr int kMaxThreads = 256;
inline constexpr int kMaxRows = 65536;

// INVALID_ARGUMENT names the option, its value and its range.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const CpuBackendOptions& options);

}  // namespace sparseserve::cpu
