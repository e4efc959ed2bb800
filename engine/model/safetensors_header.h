#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/safetensors_file.h"

namespace sparseserve {

// The tensors that a safetensors header describes, in its order and without
// their data. Each one's type, shape and place agree with each other: the
// elements of a type whose size is known take end - begin bytes.
// INVALID_ARGUMENT names the tensor and what is wrong with it, or the byte at
// which the header is not JSON.
absl::StatusOr<std::vector<SafetensorsTensor>> ParseSafetensorsHeader(
    std::string_view header);

}  // namespace sparseserve
