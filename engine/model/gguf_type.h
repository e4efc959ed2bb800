#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/gguf_cursor.h"

namespace sparseserve {

// The value types of GGUF, with the numbers that the format gives them.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// "uint32", "string", ...
std::string_view GgufTypeName(GgufType type);

// Bytes of a value; 0 for strings and arrays, which say their own length.
uint64_t GgufTypeBytes(GgufType type);

// INVALID_ARGUMENT names `what`, and the type's number if it is unknown.
absl::StatusOr<GgufType> ReadGgufType(GgufCursor& cursor,
                                      std::string_view what);

// Moves past `count` values of `type`, checking all that they hold: lengths,
// nested arrays, bools. Takes time in proportion to the bytes that are there,
// whatever `count` claims, and no memory. INVALID_ARGUMENT names `what`.
absl::Status SkipGgufElements(GgufCursor& cursor, GgufType type, uint64_t count,
                              std::string_view what);

}  // namespace sparseserve
