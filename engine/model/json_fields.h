#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// The fields of a JSON object from outside, each read as one type and within a
// range. A field that is null counts as one that is not there. INVALID_ARGUMENT
// names the field, its value and what it may be. Views the object, which must
// outlive it.
class JsonFields {
 public:
  // `path` is how messages call the object: "config.json: text_config".
  static absl::StatusOr<JsonFields> Of(const nlohmann::json& object,
                                       std::string path);

  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  // True only for a field that is there and null.
  bool IsNull(std::string_view name) const;
  // "config.json: hidden_size", for messages.
  std::string PathOf(std::string_view name) const;

  // Within the bounds, both included.
  absl::StatusOr<int32_t> Count(std::string_view name, int64_t least,
                                int64_t greatest) const;
  absl::StatusOr<int32_t> CountOr(std::string_view name, int64_t least,
                                  int64_t greatest, int32_t otherwise) const;
  // Within the bounds, both excluded; never NaN.
  absl::StatusOr<float> Real(std::string_view name, float above,
                             float below) const;
  absl::StatusOr<float> RealOr(std::string_view name, float above, float below,
                               float otherwise) const;
  absl::StatusOr<bool> BoolOr(std::string_view name, bool otherwise) const;
  absl::StatusOr<std::string> Text(std::string_view name) const;
  absl::StatusOr<std::string> TextOr(std::string_view name,
                                     std::string_view otherwise) const;
  absl::StatusOr<JsonFields> Object(std::string_view name) const;
  // The elements of an array that has `count` or more of them.
  absl::StatusOr<const nlohmann::json::array_t*> Array(std::string_view name,
                                                       int64_t count) const;
  // Null if the field is not there.
  const nlohmann::json* Find(std::string_view name) const;

 private:
  JsonFields(const nlohmann::json& object, std::string path)
      : object_(&object), path_(std::move(path)) {}

  absl::StatusOr<const nlohmann::json*> Get(std::string_view name) const;

  const nlohmann::json* object_;
  std::string path_;
};

}  // namespace sparseserve
