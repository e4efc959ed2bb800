#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/create_backend.h"

namespace sparseserve::cuda {

// The GPU that is current, compute capability 8.0 or later. Products and rows
// are bf16 with float sums; a row's bits may depend on how many are beside it.
// Corrects no rows and profiles nothing. FAILED_PRECONDITION
// says what is missing: driver, device, library or something that the model
// needs.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    const BackendOptions& options);

}  // namespace sparseserve::cuda
