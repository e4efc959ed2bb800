#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/str_cat.h"

namespace sparseserve {

// Reads little-endian values off the front of a GGUF file; never past its end.
// `what` names the thing being read, for the error.
class GgufCursor {
 public:
  explicit GgufCursor(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    static_assert(std::is_arithmetic_v<T>);
    if (sizeof(T) > remaining()) return Truncated(sizeof(T), what);
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  // Returns where the skipped bytes begin.
  absl::StatusOr<const std::byte*> Skip(uint64_t bytes, std::string_view what) {
    if (bytes > remaining()) return Truncated(bytes, what);
    const std::byte* begin = bytes_.data() + offset_;
    offset_ += bytes;
    return begin;
  }

  // A 64-bit length and that many bytes; the view is into the file.
  absl::StatusOr<std::string_view> ReadString(std::string_view what) {
    const absl::StatusOr<uint64_t> length = Read<uint64_t>(what);
    if (!length.ok()) return length.status();
    const absl::StatusOr<const std::byte*> data = Skip(*length, what);
    if (!data.ok()) return data.status();
    return std::string_view(reinterpret_cast<const char*>(*data), *length);
  }

 private:
  absl::Status Truncated(uint64_t bytes, std::string_view what) const {
    return absl::InvalidArgumentError(
        StrCat(what, " needs ", bytes, " bytes at offset ", offset_,
               ", but the file ends after ", remaining(), " more"));
  }

  absl::Span<const std::byte> bytes_;
  uint64_t offset_ = 0;
};

}  // namespace sparseserve
