#include "engine/model/gguf_type.h"

#include <cstddef>
#include <optional>

#include "engine/base/check.h"
#include "engine/base/checked_math.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// Arrays inside arrays, the outermost counted. Known files nest none.
constexpr int kMaxArrayDepth = 4;

absl::Status CheckBools(const std::byte* data, uint64_t count,
                        std::string_view what) {
  for (uint64_t i = 0; i < count; ++i) {
    if (data[i] > std::byte{1}) {
      return absl::InvalidArgumentError(StrCat(what, " holds ",
                                               static_cast<int>(data[i]),
                                               " where a bool must be 0 or 1"));
    }
  }
  return absl::OkStatus();
}

// Skips the payload of `count` elements of `type`, checking all of it.
absl::Status SkipElements(GgufCursor& cursor, GgufType type, uint64_t count,
                          int depth, std::string_view what);

absl::Status SkipArray(GgufCursor& cursor, int depth, std::string_view what) {
  if (depth > kMaxArrayDepth) {
    return absl::InvalidArgumentError(
        StrCat(what, " nests arrays deeper than ", kMaxArrayDepth));
  }
  ASSIGN_OR_RETURN(const GgufType type, ReadGgufType(cursor, what));
  ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>(what));
  return SkipElements(cursor, type, count, depth, what);
}

absl::Status SkipElements(GgufCursor& cursor, GgufType type, uint64_t count,
                          int depth, std::string_view what) {
  // Also bounds the loops below: an element takes at least a byte.
  if (count > cursor.remaining()) {
    return absl::InvalidArgumentError(
        StrCat(what, " claims ", count, " elements, but only ",
               cursor.remaining(), " bytes of the file are left"));
  }
  if (const uint64_t size = GgufTypeBytes(type); size != 0) {
    const std::optional<uint64_t> bytes = CheckedMultiply(count, size);
    ASSIGN_OR_RETURN(const std::byte* data,
                     cursor.Skip(bytes.value_or(UINT64_MAX), what));
    return type == GgufType::kBool ? CheckBools(data, count, what)
                                   : absl::OkStatus();
  }
  for (uint64_t i = 0; i < count; ++i) {
    if (type == GgufType::kArray) {
      RETURN_IF_ERROR(SkipArray(cursor, depth + 1, what));
    } else if (auto text = cursor.ReadString(what); !text.ok()) {
      return text.status();
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view GgufTypeName(GgufType type) {
  constexpr std::string_view kNames[] = {
      "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
      "bool",  "string", "array",  "uint64", "int64",  "float64"};
  return kNames[static_cast<uint32_t>(type)];
}

uint64_t GgufTypeBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  SPARSESERVE_CHECK(false);
}

absl::StatusOr<GgufType> ReadGgufType(GgufCursor& cursor,
                                      std::string_view what) {
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
  if (type > static_cast<uint32_t>(GgufType::kFloat64)) {
    return absl::InvalidArgumentError(
        StrCat(what, " has unknown value type ", type));
  }
  return static_cast<GgufType>(type);
}

absl::Status SkipGgufElements(GgufCursor& cursor, GgufType type, uint64_t count,
                              std::string_view what) {
  return SkipElements(cursor, type, count, /*depth=*/1, what);
}

}  // namespace sparseserve
