#include "engine/model/json_fields.h"

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/json_document.h"

namespace sparseserve {

using Json = nlohmann::json;

absl::StatusOr<JsonFields> JsonFields::Of(const Json& object,
                                          std::string path) {
  RETURN_IF_ERROR(CheckJsonObject(object, path));
  return JsonFields(object, std::move(path));
}

const Json* JsonFields::Find(std::string_view name) const {
  return FindMember(*object_, name);
}

bool JsonFields::IsNull(std::string_view name) const {
  const auto found = object_->find(name);
  return found != object_->end() && found->is_null();
}

std::string JsonFields::PathOf(std::string_view name) const {
  return StrCat(path_, ": ", name);
}

absl::StatusOr<const Json*> JsonFields::Get(std::string_view name) const {
  const Json* value = Find(name);
  if (value != nullptr) return value;
  return absl::InvalidArgumentError(StrCat(path_, " has no ", name));
}

absl::StatusOr<int32_t> JsonFields::Count(std::string_view name, int64_t least,
                                          int64_t greatest) const {
  ASSIGN_OR_RETURN(const Json* value, Get(name));
  ASSIGN_OR_RETURN(const int64_t count,
                   JsonInteger(*value, PathOf(name), least, greatest));
  return static_cast<int32_t>(count);
}

absl::StatusOr<int32_t> JsonFields::CountOr(std::string_view name,
                                            int64_t least, int64_t greatest,
                                            int32_t otherwise) const {
  if (!Has(name)) return otherwise;
  return Count(name, least, greatest);
}

absl::StatusOr<float> JsonFields::Real(std::string_view name, float above,
                                       float below) const {
  ASSIGN_OR_RETURN(const Json* value, Get(name));
  // Whole numbers serve too; bools and texts are no numbers.
  const bool is_number = value->is_number();
  const double number = is_number ? value->get<double>() : 0;
  if (is_number && number > above && number < below) {
    const float rounded = static_cast<float>(number);
    if (rounded > above && rounded < below) return rounded;
  }
  return absl::InvalidArgumentError(
      StrCat(PathOf(name), " is ", ShownJson(*value), ", must be above ", above,
             " and below ", below));
}

absl::StatusOr<float> JsonFields::RealOr(std::string_view name, float above,
                                         float below, float otherwise) const {
  if (!Has(name)) return otherwise;
  return Real(name, above, below);
}

absl::StatusOr<bool> JsonFields::BoolOr(std::string_view name,
                                        bool otherwise) const {
  const Json* value = Find(name);
  if (value == nullptr) return otherwise;
  return JsonBool(*value, PathOf(name));
}

absl::StatusOr<std::string> JsonFields::Text(std::string_view name) const {
  ASSIGN_OR_RETURN(const Json* value, Get(name));
  return JsonString(*value, PathOf(name));
}

absl::StatusOr<std::string> JsonFields::TextOr(
    std::string_view name, std::string_view otherwise) const {
  if (!Has(name)) return std::string(otherwise);
  return Text(name);
}

absl::StatusOr<JsonFields> JsonFields::Object(std::string_view name) const {
  ASSIGN_OR_RETURN(const Json* value, Get(name));
  return Of(*value, PathOf(name));
}

absl::StatusOr<const Json::array_t*> JsonFields::Array(std::string_view name,
                                                       int64_t count) const {
  ASSIGN_OR_RETURN(const Json* value, Get(name));
  RETURN_IF_ERROR(CheckJsonArray(*value, PathOf(name)));
  if (static_cast<int64_t>(value->size()) < count) {
    return absl::InvalidArgumentError(StrCat(
        PathOf(name), " has ", value->size(), " elements, fewer than ", count));
  }
  return value->get_ptr<const Json::array_t*>();
}

}  // namespace sparseserve
