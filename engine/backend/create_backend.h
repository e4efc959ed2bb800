#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace sparseserve {

struct BackendOptions {
  int threads = 0;                     // 0: one per core this process may use
  std::string compute_dtype = "auto";  // "auto", "f32", "bf16"
  // Best CPU path to use: "auto", "avx512", "avx2", "sse4", "scalar". The
  // backend takes the best one that the CPU has and that is not above it.
  std::string simd = "auto";
  // Rows that one call may carry; scratch is sized by it.
  int max_rows = 512;
};

// The backend of this build's best device. Which file defines this decides
// which devices are compiled in. INVALID_ARGUMENT names the option, its value
// and its range.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(
    const BackendOptions& options);

}  // namespace sparseserve
