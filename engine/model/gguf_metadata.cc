#include "engine/model/gguf_metadata.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// Longest key that the format allows.
constexpr uint64_t kMaxKeyBytes = 65535;
// The least bytes of a pair: an empty key, a type and a one-byte value.
constexpr uint64_t kMinPairBytes = 8 + 4 + 1;
template <typename T>
T Load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

absl::Status WrongType(std::string_view key, std::string_view actual,
                       std::string_view wanted) {
  return absl::InvalidArgumentError(
      StrCat("metadata key ", Quoted(key), " is ", actual, ", not ", wanted));
}

absl::Status OutOfRange(std::string_view key, std::string_view value,
                        std::string_view wanted) {
  return absl::InvalidArgumentError(StrCat("metadata key ", Quoted(key), " is ",
                                           value, ", not within ", wanted));
}

absl::StatusOr<int64_t> LoadInteger(GgufType type, const std::byte* data,
                                    std::string_view key) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(data);
    case GgufType::kInt8:
      return Load<int8_t>(data);
    case GgufType::kUint16:
      return Load<uint16_t>(data);
    case GgufType::kInt16:
      return Load<int16_t>(data);
    case GgufType::kUint32:
      return Load<uint32_t>(data);
    case GgufType::kInt32:
      return Load<int32_t>(data);
    case GgufType::kInt64:
      return Load<int64_t>(data);
    case GgufType::kUint64: {
      const uint64_t value = Load<uint64_t>(data);
      if (value > std::numeric_limits<int64_t>::max()) {
        return OutOfRange(key, StrCat(value), "int64");
      }
      return static_cast<int64_t>(value);
    }
    default:
      return WrongType(key, GgufTypeName(type), "an integer");
  }
}

absl::StatusOr<float> LoadFloat(GgufType type, const std::byte* data,
                                std::string_view key) {
  if (type == GgufType::kFloat32) return Load<float>(data);
  if (type != GgufType::kFloat64) {
    return WrongType(key, GgufTypeName(type), "a float");
  }
  const double value = Load<double>(data);
  if (std::isfinite(value) &&
      std::abs(value) > std::numeric_limits<float>::max()) {
    return OutOfRange(key, StrCat(value), "float32");
  }
  return static_cast<float>(value);
}

}  // namespace

absl::StatusOr<GgufMetadata::Value> GgufMetadata::ParseValue(
    GgufCursor& cursor, std::string_view key) {
  const std::string what = StrCat("metadata key ", Quoted(key));
  Value value;
  ASSIGN_OR_RETURN(value.type, ReadGgufType(cursor, what));
  value.element_type = value.type;
  if (value.type == GgufType::kArray) {
    ASSIGN_OR_RETURN(value.element_type, ReadGgufType(cursor, what));
    ASSIGN_OR_RETURN(value.count, cursor.Read<uint64_t>(what));
  }
  const uint64_t begin = cursor.offset();
  ASSIGN_OR_RETURN(value.data, cursor.Skip(0, what));
  RETURN_IF_ERROR(
      SkipGgufElements(cursor, value.element_type, value.count, what));
  value.bytes = cursor.offset() - begin;
  return value;
}

absl::StatusOr<GgufMetadata> GgufMetadata::Parse(GgufCursor& cursor,
                                                 uint64_t count) {
  if (count > cursor.remaining() / kMinPairBytes) {
    return absl::InvalidArgumentError(
        StrCat("the file claims ", count, " metadata pairs, but only ",
               cursor.remaining(), " bytes are left"));
  }
  GgufMetadata metadata;
  for (uint64_t i = 0; i < count; ++i) {
    const std::string what = StrCat("metadata pair ", i);
    ASSIGN_OR_RETURN(const std::string_view key, cursor.ReadString(what));
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return absl::InvalidArgumentError(
          StrCat(what, " has a key of ", key.size(),
                 " bytes, not within 1 and ", kMaxKeyBytes));
    }
    ASSIGN_OR_RETURN(const Value value, ParseValue(cursor, key));
    if (!metadata.values_.emplace(key, value).second) {
      return absl::InvalidArgumentError(
          StrCat("metadata key ", Quoted(key), " occurs twice"));
    }
  }
  return metadata;
}

absl::StatusOr<GgufMetadata::Value> GgufMetadata::Find(
    std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) {
    return absl::NotFoundError(
        StrCat("the file has no metadata key ", Quoted(key)));
  }
  return found->second;
}

absl::StatusOr<GgufMetadata::Value> GgufMetadata::FindArray(
    std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, Find(key));
  if (value.type != GgufType::kArray) {
    return WrongType(key, GgufTypeName(value.type), "an array");
  }
  return value;
}

absl::StatusOr<int64_t> GgufMetadata::GetInt64(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, Find(key));
  return LoadInteger(value.type, value.data, key);
}

absl::StatusOr<uint32_t> GgufMetadata::GetUint32(std::string_view key) const {
  ASSIGN_OR_RETURN(const int64_t value, GetInt64(key));
  if (value < 0 || value > std::numeric_limits<uint32_t>::max()) {
    return OutOfRange(key, StrCat(value), "uint32");
  }
  return static_cast<uint32_t>(value);
}

absl::StatusOr<float> GgufMetadata::GetFloat(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, Find(key));
  return LoadFloat(value.type, value.data, key);
}

absl::StatusOr<bool> GgufMetadata::GetBool(std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, Find(key));
  if (value.type != GgufType::kBool) {
    return WrongType(key, GgufTypeName(value.type), "a bool");
  }
  return *value.data == std::byte{1};
}

absl::StatusOr<std::string_view> GgufMetadata::GetString(
    std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, Find(key));
  if (value.type != GgufType::kString) {
    return WrongType(key, GgufTypeName(value.type), "a string");
  }
  GgufCursor cursor(absl::MakeConstSpan(value.data, value.bytes));
  return cursor.ReadString(key);
}

absl::StatusOr<int64_t> GgufMetadata::GetArrayLength(
    std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, FindArray(key));
  // Each element has a byte of the file at least.
  return static_cast<int64_t>(value.count);
}

absl::StatusOr<std::vector<int32_t>> GgufMetadata::GetInt32Array(
    std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, FindArray(key));
  const uint64_t size = GgufTypeBytes(value.element_type);
  std::vector<int32_t> result;
  for (uint64_t i = 0; i < value.count; ++i) {
    ASSIGN_OR_RETURN(
        const int64_t element,
        LoadInteger(value.element_type, value.data + i * size, key));
    if (element < std::numeric_limits<int32_t>::min() ||
        element > std::numeric_limits<int32_t>::max()) {
      return OutOfRange(key, StrCat(element), "int32");
    }
    result.push_back(static_cast<int32_t>(element));
  }
  return result;
}

absl::StatusOr<std::vector<float>> GgufMetadata::GetFloatArray(
    std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, FindArray(key));
  const uint64_t size = GgufTypeBytes(value.element_type);
  std::vector<float> result;
  for (uint64_t i = 0; i < value.count; ++i) {
    ASSIGN_OR_RETURN(const float element,
                     LoadFloat(value.element_type, value.data + i * size, key));
    result.push_back(element);
  }
  return result;
}

absl::StatusOr<std::vector<std::string_view>> GgufMetadata::GetStringArray(
    std::string_view key) const {
  ASSIGN_OR_RETURN(const Value value, FindArray(key));
  if (value.element_type != GgufType::kString) {
    return WrongType(key,
                     StrCat("an array of ", GgufTypeName(value.element_type)),
                     "an array of strings");
  }
  GgufCursor cursor(absl::MakeConstSpan(value.data, value.bytes));
  std::vector<std::string_view> result;
  for (uint64_t i = 0; i < value.count; ++i) {
    ASSIGN_OR_RETURN(const std::string_view text, cursor.ReadString(key));
    result.push_back(text);
  }
  return result;
}

}  // namespace sparseserve
