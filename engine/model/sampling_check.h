#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/step.h"

namespace sparseserve {

// INVALID_ARGUMENT names a sampling parameter, or a token that the slice's
// lists name, that is out of range. REQUIRES: slice.sampling is not null.
absl::Status CheckSampling(const StepSlice& slice, int32_t vocab_size);

}  // namespace sparseserve
