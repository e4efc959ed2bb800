#include "engine/model/json_document.h"

#include <algorithm>
#include <utility>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

using nlohmann::json;

absl::Status Unfit(std::string_view path, const json& value,
                   std::string_view wanted) {
  return absl::InvalidArgumentError(
      StrCat(path, " is ", ShownJson(value), ", not ", wanted));
}

// The deepest nesting of brackets outside strings, looked at before anything
// is allocated for it.
int NestingOf(std::string_view text) {
  int nesting = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size() && deepest <= kMaxJsonNesting; ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++nesting);
    } else if (c == ']' || c == '}') {
      --nesting;
    }
  }
  return deepest;
}

}  // namespace

absl::StatusOr<json> ParseJson(std::string_view text, std::string_view path) {
  if (NestingOf(text) > kMaxJsonNesting) {
    return absl::InvalidArgumentError(
        StrCat(path, " is nested deeper than ", kMaxJsonNesting));
  }
  json document = json::parse(text.begin(), text.end(), /*cb=*/nullptr,
                              /*allow_exceptions=*/false);
  if (document.is_discarded()) {
    return absl::InvalidArgumentError(StrCat(path, " is not valid JSON"));
  }
  return document;
}

const json* FindMember(const json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::StatusOr<std::string> JsonString(const json& value,
                                       std::string_view path) {
  const auto* text = value.get_ptr<const json::string_t*>();
  if (text == nullptr) return Unfit(path, value, "a string");
  return *text;
}

absl::StatusOr<int64_t> JsonInteger(const json& value, std::string_view path,
                                    int64_t least, int64_t greatest) {
  const auto* natural = value.get_ptr<const json::number_unsigned_t*>();
  const auto* integer = value.get_ptr<const json::number_integer_t*>();
  // Natural numbers are both to the library.
  const bool fits =
      natural != nullptr
          ? greatest >= 0 && *natural <= static_cast<uint64_t>(greatest)
          : integer != nullptr && *integer <= greatest;
  if (!fits || *integer < least) {
    return Unfit(path, value,
                 StrCat("a whole number within ", least, " and ", greatest));
  }
  return *integer;
}

absl::StatusOr<bool> JsonBool(const json& value, std::string_view path) {
  const auto* truth = value.get_ptr<const json::boolean_t*>();
  if (truth == nullptr) return Unfit(path, value, "true or false");
  return *truth;
}

absl::StatusOr<bool> JsonBoolMember(const json& object, std::string_view key,
                                    std::string_view path, bool otherwise) {
  const json* value = FindMember(object, key);
  if (value == nullptr) return otherwise;
  return JsonBool(*value, StrCat(path, ".", key));
}

absl::Status CheckJsonObject(const json& value, std::string_view path) {
  if (value.is_object()) return absl::OkStatus();
  return Unfit(path, value, "an object");
}

absl::Status CheckJsonArray(const json& value, std::string_view path) {
  if (value.is_array()) return absl::OkStatus();
  return Unfit(path, value, "an array");
}

std::string ShownJson(const json& value) {
  if (value.is_object() || value.is_array()) {
    return StrCat("an ", value.type_name(), " of ", value.size());
  }
  if (const auto* text = value.get_ptr<const json::string_t*>()) {
    return Quoted(*text);
  }
  return value.dump();
}

absl::Status CheckSettings(const json& object, std::string_view path,
                           const std::vector<JsonSetting>& settings) {
  RETURN_IF_ERROR(CheckJsonObject(object, path));
  for (const auto& [key, value] : object.items()) {
    if (key == "type") continue;
    const auto setting =
        std::find_if(settings.begin(), settings.end(),
                     [&key = key](const auto& s) { return s.key == key; });
    if (setting == settings.end()) {
      return absl::InvalidArgumentError(
          StrCat(path, " has an unknown setting ", Quoted(key)));
    }
    const auto& values = setting->values;
    if (!values.empty() &&
        std::find(values.begin(), values.end(), value) == values.end()) {
      return absl::InvalidArgumentError(
          StrCat(path, ".", key, " is ", ShownJson(value),
                 ", which is not supported; known is ", ShownJson(values[0])));
    }
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
