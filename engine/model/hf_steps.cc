#include "engine/model/hf_steps.h"

#include <utility>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/json_document.h"

namespace sparseserve {
namespace {

using nlohmann::json;

absl::Status AppendSteps(const json& value, const std::string& path,
                         const char* parts_key, std::vector<HfStep>& steps) {
  RETURN_IF_ERROR(CheckJsonObject(value, path));
  const json* type = FindMember(value, "type");
  if (type == nullptr) {
    return absl::InvalidArgumentError(StrCat(path, " has no type"));
  }
  ASSIGN_OR_RETURN(std::string name, JsonString(*type, StrCat(path, ".type")));
  if (name != "Sequence") {
    steps.push_back({&value, path, std::move(name)});
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckSettings(value, path, {{parts_key, {}}}));
  const std::string parts_path = StrCat(path, ".", parts_key);
  const json* parts = FindMember(value, parts_key);
  if (parts == nullptr) {
    return absl::InvalidArgumentError(StrCat(parts_path, " is missing"));
  }
  RETURN_IF_ERROR(CheckJsonArray(*parts, parts_path));
  for (size_t i = 0; i < parts->size(); ++i) {
    // Nesting is bounded: ParseJson() looked.
    RETURN_IF_ERROR(AppendSteps((*parts)[i], StrCat(parts_path, "[", i, "]"),
                                parts_key, steps));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<HfStep>> ReadHfSteps(const json& tokenizer,
                                                const char* stage,
                                                const char* parts_key) {
  std::vector<HfStep> steps;
  if (const json* value = FindMember(tokenizer, stage)) {
    RETURN_IF_ERROR(AppendSteps(*value, StrCat("tokenizer.json: ", stage),
                                parts_key, steps));
  }
  return steps;
}

std::string TypesOf(const std::vector<HfStep>& steps) {
  std::string types;
  for (const HfStep& step : steps) {
    types += StrCat(types.empty() ? "" : ", ", step.type);
  }
  return StrCat("[", types, "]");
}

absl::Status UnknownHfSteps(const char* stage, const std::vector<HfStep>& steps,
                            std::string_view known) {
  return absl::InvalidArgumentError(StrCat("tokenizer.json: ", stage, " is ",
                                           Quoted(TypesOf(steps)),
                                           "; known are ", known));
}

}  // namespace sparseserve
