#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"

namespace sparseserve {

struct JsonLimits {
  size_t max_depth = 32;          // of objects and arrays in each other
  size_t max_values = 1'000'000;  // each takes a few dozen bytes of a tree
};

// Reads JSON text from outside without building anything of it, so that what is
// then built is bounded. INVALID_ARGUMENT says at which byte `path` is not
// JSON, which limit it exceeds, or which key an object has twice: readers
// disagree on which of the two counts.
absl::Status CheckJson(std::string_view text, std::string_view path,
                       const JsonLimits& limits = {});

}  // namespace sparseserve
