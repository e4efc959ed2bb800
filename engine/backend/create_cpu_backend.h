#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/create_backend.h"

namespace sparseserve {

// The CPU's, whatever `options.device` says, with DeviceInfo::note. For the
// files that define CreateBackend().
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const BackendOptions& options, std::string note = "");

// INVALID_ARGUMENT if it is none of those that anyone may ask for.
absl::Status CheckDeviceName(const std::string& name);

}  // namespace sparseserve
