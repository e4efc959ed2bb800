#pragma once

#include <optional>
#include <string_view>

#include "engine/tensor/dtype.h"

namespace sparseserve {

// A type of elements in the safetensors format, whole bytes each.
struct SafetensorsType {
  std::string_view name;       // "BF16"
  int bytes;                   // of an element
  std::optional<DType> dtype;  // set if it is one that we read
};

// Null for a name that is not known.
const SafetensorsType* FindSafetensorsType(std::string_view name);

}  // namespace sparseserve
