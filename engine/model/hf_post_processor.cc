#include "engine/model/hf_post_processor.h"

#include <limits>
#include <utility>
#include <vector>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/hf_steps.h"
#include "engine/model/json_document.h"

namespace sparseserve {
namespace {

using nlohmann::json;

// {"KIND": {"id": ID, ...}}: the ID.
absl::StatusOr<std::string> ReadPiece(const json& piece, const char* kind,
                                      const std::string& path) {
  RETURN_IF_ERROR(CheckSettings(piece, path, {{kind, {}}}));
  const json* inner = FindMember(piece, kind);
  const json* id = inner == nullptr ? nullptr : FindMember(*inner, "id");
  if (id == nullptr) {
    return absl::InvalidArgumentError(
        StrCat(path, ".", kind, ".id is missing"));
  }
  return JsonString(*id, StrCat(path, ".", kind, ".id"));
}

absl::StatusOr<HfBegin> ReadBegin(const HfStep& step, const json& piece) {
  HfBegin begin;
  ASSIGN_OR_RETURN(begin.text, ReadPiece(piece, "SpecialToken",
                                         StrCat(step.path, ".single[0]")));
  const std::string path = StrCat(step.path, ".special_tokens");
  const json* tokens = FindMember(*step.value, "special_tokens");
  const json* token =
      tokens == nullptr ? nullptr : FindMember(*tokens, begin.text);
  const json* ids = token == nullptr ? nullptr : FindMember(*token, "ids");
  if (ids == nullptr || !ids->is_array() || ids->size() != 1) {
    return absl::InvalidArgumentError(
        StrCat(path, " does not name one id of ", Quoted(begin.text)));
  }
  ASSIGN_OR_RETURN(begin.token,
                   JsonInteger((*ids)[0], StrCat(path, ".ids[0]"), 0,
                               std::numeric_limits<int32_t>::max()));
  return begin;
}

absl::StatusOr<std::optional<HfBegin>> ReadTemplate(const HfStep& step) {
  RETURN_IF_ERROR(
      CheckSettings(*step.value, step.path,
                    {{"single", {}}, {"pair", {}}, {"special_tokens", {}}}));
  const std::string path = StrCat(step.path, ".single");
  const json* single = FindMember(*step.value, "single");
  if (single == nullptr) {
    return absl::InvalidArgumentError(StrCat(path, " is missing"));
  }
  RETURN_IF_ERROR(CheckJsonArray(*single, path));
  if (single->empty() || single->size() > 2) {
    return absl::InvalidArgumentError(
        StrCat(path, " has ", single->size(),
               " pieces; known are a text, and a token before it"));
  }
  std::optional<HfBegin> begin;
  if (single->size() == 2) {
    ASSIGN_OR_RETURN(begin, ReadBegin(step, (*single)[0]));
  }
  RETURN_IF_ERROR(ReadPiece(single->back(), "Sequence",
                            StrCat(path, "[", single->size() - 1, "]"))
                      .status());
  return begin;
}

}  // namespace

absl::StatusOr<std::optional<HfBegin>> ReadHfBegin(const json& tokenizer) {
  ASSIGN_OR_RETURN(const std::vector<HfStep> steps,
                   ReadHfSteps(tokenizer, "post_processor", "processors"));
  std::optional<HfBegin> begin;
  bool has_template = false;
  for (const HfStep& step : steps) {
    if (step.type == "ByteLevel") {
      // Says where tokens lie in the text, not which they are.
      RETURN_IF_ERROR(CheckSettings(
          *step.value, step.path,
          {{"add_prefix_space", {}}, {"trim_offsets", {}}, {"use_regex", {}}}));
    } else if (step.type == "TemplateProcessing" &&
               !std::exchange(has_template, true)) {
      ASSIGN_OR_RETURN(begin, ReadTemplate(step));
    } else {
      return UnknownHfSteps("post_processor", steps,
                            "ByteLevel and one TemplateProcessing");
    }
  }
  return begin;
}

}  // namespace sparseserve
