#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/gguf_type.h"

namespace sparseserve {

// The key-value section of a GGUF file. Values stay in the file's bytes, which
// must outlive this; only the index of keys is memory of its own. Immutable
// once parsed.
//
// Getters: NOT_FOUND names a missing key; INVALID_ARGUMENT names key, type and
// wanted type if it has another, or the value if it does not fit. Integers of
// every width serve where an integer is asked for.
class GgufMetadata {
 public:
  // Reads `count` pairs at the cursor. INVALID_ARGUMENT names the pair or key
  // that is truncated, repeated or malformed.
  static absl::StatusOr<GgufMetadata> Parse(GgufCursor& cursor, uint64_t count);

  bool Has(std::string_view key) const { return values_.contains(key); }

  absl::StatusOr<uint32_t> GetUint32(std::string_view key) const;
  absl::StatusOr<int64_t> GetInt64(std::string_view key) const;
  absl::StatusOr<float> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  // Elements of an array of any type, without reading them.
  absl::StatusOr<int64_t> GetArrayLength(std::string_view key) const;
  absl::StatusOr<std::vector<int32_t>> GetInt32Array(
      std::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloatArray(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> GetStringArray(
      std::string_view key) const;

 private:
  // A checked value: `data` is its payload, of `count` elements of
  // `element_type` if it is an array.
  struct Value {
    GgufType type = GgufType::kUint8;
    GgufType element_type = GgufType::kUint8;
    uint64_t count = 1;
    const std::byte* data = nullptr;
    uint64_t bytes = 0;
  };

  static absl::StatusOr<Value> ParseValue(GgufCursor& cursor,
                                          std::string_view key);
  absl::StatusOr<Value> Find(std::string_view key) const;
  absl::StatusOr<Value> FindArray(std::string_view key) const;

  absl::flat_hash_map<std::string_view, Value> values_;
};

}  // namespace sparseserve
