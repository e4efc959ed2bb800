#include "engine/model/config_reader.h"

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

absl::Status Missing(const std::string& key) {
  return absl::InvalidArgumentError(StrCat("the model file has no ", key));
}

}  // namespace

std::string ConfigReader::Key(std::string_view name) const {
  return StrCat(prefix_, ".", name);
}

absl::StatusOr<int32_t> ConfigReader::Count(std::string_view name,
                                            int64_t least,
                                            int64_t greatest) const {
  const std::string key = Key(name);
  if (!metadata_.Has(key)) return Missing(key);
  ASSIGN_OR_RETURN(const int64_t value, metadata_.GetInt64(key));
  if (value < least || value > greatest) {
    return Wrong(key, StrCat(value), StrCat("from ", least, " to ", greatest));
  }
  return static_cast<int32_t>(value);
}

absl::StatusOr<int32_t> ConfigReader::CountOr(std::string_view name,
                                              int64_t least, int64_t greatest,
                                              int32_t otherwise) const {
  if (!Has(name)) return otherwise;
  return Count(name, least, greatest);
}

absl::StatusOr<float> ConfigReader::Real(std::string_view name, float above,
                                         float below) const {
  const std::string key = Key(name);
  if (!metadata_.Has(key)) return Missing(key);
  ASSIGN_OR_RETURN(const float value, metadata_.GetFloat(key));
  if (!(value > above && value < below)) {
    return Wrong(key, StrCat(value),
                 StrCat("above ", above, " and below ", below));
  }
  return value;
}

absl::StatusOr<float> ConfigReader::PositiveOrNone(std::string_view name,
                                                   float below,
                                                   float otherwise) const {
  if (!Has(name)) return otherwise;
  ASSIGN_OR_RETURN(const float value, metadata_.GetFloat(Key(name)));
  if (value == 0) return 0.0f;
  return Real(name, 0, below);
}

absl::StatusOr<std::string_view> ConfigReader::TextOr(
    std::string_view name, std::string_view otherwise) const {
  if (!Has(name)) return otherwise;
  return metadata_.GetString(Key(name));
}

absl::Status ConfigReader::RequireReal(std::string_view name,
                                       float supported) const {
  if (!Has(name)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const float value, metadata_.GetFloat(Key(name)));
  if (value == supported) return absl::OkStatus();
  return Unsupported(name, StrCat(value), StrCat(supported));
}

absl::Status ConfigReader::RequireCount(std::string_view name,
                                        int64_t supported) const {
  if (!Has(name)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t value, metadata_.GetInt64(Key(name)));
  if (value == supported) return absl::OkStatus();
  return Unsupported(name, StrCat(value), StrCat(supported));
}

absl::Status ConfigReader::RequireFlag(std::string_view name,
                                       bool supported) const {
  if (!Has(name)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool value, metadata_.GetBool(Key(name)));
  if (value == supported) return absl::OkStatus();
  return Unsupported(name, value ? "true" : "false",
                     supported ? "true" : "false");
}

absl::Status ConfigReader::Unsupported(std::string_view name,
                                       std::string_view found,
                                       std::string_view supported) const {
  return absl::UnimplementedError(
      StrCat(Key(name), " is ", found, ", supported is ", supported));
}

absl::Status ConfigReader::Wrong(std::string_view key, std::string_view found,
                                 std::string_view wanted) {
  return absl::InvalidArgumentError(
      StrCat(key, " is ", found, ", must be ", wanted));
}

}  // namespace sparseserve
