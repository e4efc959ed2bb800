#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// JSON from files that nobody vouches for: parsed without exceptions, and read
// by functions that look at each value's type. `path` is how messages call the
// value, such as "tokenizer.json: model.vocab". All return INVALID_ARGUMENT for
// what does not fit.

// Deepest nesting of a document that is read; none in use comes near.
constexpr int kMaxJsonNesting = 64;

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text,
                                         std::string_view path);

// The member of an object, or null if there is none, or if it is JSON's null.
const nlohmann::json* FindMember(const nlohmann::json& object,
                                 std::string_view key);

// The text of a string value.
absl::StatusOr<std::string> JsonString(const nlohmann::json& value,
                                       std::string_view path);
// A whole number within the bounds, both included.
absl::StatusOr<int64_t> JsonInteger(const nlohmann::json& value,
                                    std::string_view path, int64_t least,
                                    int64_t greatest);
absl::StatusOr<bool> JsonBool(const nlohmann::json& value,
                              std::string_view path);
// The object's member, `otherwise` where it is missing or null.
absl::StatusOr<bool> JsonBoolMember(const nlohmann::json& object,
                                    std::string_view key, std::string_view path,
                                    bool otherwise);

absl::Status CheckJsonObject(const nlohmann::json& value,
                             std::string_view path);
absl::Status CheckJsonArray(const nlohmann::json& value, std::string_view path);

// A value as messages show it: cut if it is long.
std::string ShownJson(const nlohmann::json& value);

// A setting that a description of a step may have.
struct JsonSetting {
  const char* key;
  // What it may be; anything if empty.
  std::vector<nlohmann::json> values;
};

// Checks that `object` has no member other than `type` and the settings, and
// these only with the values that they may have.
absl::Status CheckSettings(const nlohmann::json& object, std::string_view path,
                           const std::vector<JsonSetting>& settings);

}  // namespace sparseserve
