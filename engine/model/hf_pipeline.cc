#include "engine/model/hf_pipeline.h"

#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/json_document.h"

namespace sparseserve {
namespace {

using nlohmann::json;

// Expressions by which files split words, and the rules that they are.
constexpr std::pair<std::string_view, PreSplit> kExpressions[] = {
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     PreSplit::kLlama3},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     PreSplit::kQwen2},
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
     R"(|\s+(?!\S)|\s+)",
     PreSplit::kGpt2},
    {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
     R"(|\s+(?!\S)|\s+)",
     PreSplit::kGpt2}};

// One step of a stage, and how messages call it.
struct Step {
  const json* value;
  std::string path;
  std::string type;
};

// Steps as messages list them.
std::string TypesOf(const std::vector<Step>& steps) {
  std::string types;
  for (const Step& step : steps) {
    types += StrCat(types.empty() ? "" : ", ", step.type);
  }
  return StrCat("[", types, "]");
}

absl::Status AppendSteps(const json& value, const std::string& path,
                         const char* parts_key, std::vector<Step>& steps) {
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

// The steps of one stage in order, sequences laid flat; none if it is null.
absl::StatusOr<std::vector<Step>> ReadSteps(const json& tokenizer,
                                            const char* stage,
                                            const char* parts_key) {
  std::vector<Step> steps;
  if (const json* value = FindMember(tokenizer, stage)) {
    RETURN_IF_ERROR(AppendSteps(*value, StrCat("tokenizer.json: ", stage),
                                parts_key, steps));
  }
  return steps;
}

absl::Status UnknownSteps(const char* stage, const std::vector<Step>& steps,
                          std::string_view known) {
  return absl::InvalidArgumentError(StrCat("tokenizer.json: ", stage, " is ",
                                           Quoted(TypesOf(steps)),
                                           "; known are ", known));
}

absl::Status ReadNormalizer(const json& tokenizer, HfPipeline& pipeline) {
  ASSIGN_OR_RETURN(const std::vector<Step> steps,
                   ReadSteps(tokenizer, "normalizer", "normalizers"));
  if (steps.empty()) return absl::OkStatus();
  if (steps.size() != 1 || steps[0].type != "NFC") {
    return UnknownSteps("normalizer", steps, "none and NFC");
  }
  RETURN_IF_ERROR(CheckSettings(*steps[0].value, steps[0].path, {}));
  pipeline.normalizes_nfc = true;
  return absl::OkStatus();
}

absl::Status CheckByteLevel(const Step& step, bool splits) {
  RETURN_IF_ERROR(CheckSettings(*step.value, step.path,
                                {{"add_prefix_space", {false}},
                                 {"trim_offsets", {}},
                                 {"use_regex", {}}}));
  ASSIGN_OR_RETURN(
      const bool use_regex,
      JsonBoolMember(*step.value, "use_regex", step.path, /*otherwise=*/true));
  if (use_regex == splits) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(step.path, ".use_regex is ",
                                           use_regex ? "true" : "false",
                                           ", which is not supported here"));
}

absl::StatusOr<PreSplit> ReadExpression(const Step& step) {
  RETURN_IF_ERROR(CheckSettings(
      *step.value, step.path,
      {{"pattern", {}}, {"behavior", {"Isolated"}}, {"invert", {false}}}));
  for (const char* key : {"pattern", "behavior"}) {
    if (FindMember(*step.value, key) == nullptr) {
      return absl::InvalidArgumentError(
          StrCat(step.path, ".", key, " is missing"));
    }
  }
  const json& pattern = *FindMember(*step.value, "pattern");
  const std::string path = StrCat(step.path, ".pattern");
  RETURN_IF_ERROR(CheckSettings(pattern, path, {{"Regex", {}}}));
  const json* regex = FindMember(pattern, "Regex");
  if (regex == nullptr) {
    return absl::InvalidArgumentError(StrCat(path, ".Regex is missing"));
  }
  ASSIGN_OR_RETURN(const std::string text,
                   JsonString(*regex, StrCat(path, ".Regex")));
  for (const auto& [known, rule] : kExpressions) {
    if (known == text) return rule;
  }
  return absl::InvalidArgumentError(
      StrCat(path, ".Regex is ", Quoted(text),
             ", none of those of GPT-2, Llama 3 and Qwen2"));
}

absl::Status ReadPreTokenizer(const json& tokenizer, HfPipeline& pipeline) {
  ASSIGN_OR_RETURN(const std::vector<Step> steps,
                   ReadSteps(tokenizer, "pre_tokenizer", "pretokenizers"));
  const std::string types = TypesOf(steps);
  if (types == "[ByteLevel]") {
    pipeline.pre_split = PreSplit::kGpt2;
    return CheckByteLevel(steps[0], /*splits=*/true);
  }
  if (types == "[Digits, ByteLevel]") {
    pipeline.pre_split = PreSplit::kSmolLm;
    RETURN_IF_ERROR(CheckSettings(*steps[0].value, steps[0].path,
                                  {{"individual_digits", {true}}}));
    if (FindMember(*steps[0].value, "individual_digits") == nullptr) {
      return absl::InvalidArgumentError(
          StrCat(steps[0].path, ".individual_digits is missing"));
    }
    return CheckByteLevel(steps[1], /*splits=*/true);
  }
  if (types == "[Split, ByteLevel]") {
    ASSIGN_OR_RETURN(pipeline.pre_split, ReadExpression(steps[0]));
    return CheckByteLevel(steps[1], /*splits=*/false);
  }
  return UnknownSteps("pre_tokenizer", steps,
                      "[ByteLevel], [Digits, ByteLevel] and [Split, "
                      "ByteLevel]");
}

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

absl::StatusOr<HfPipeline::Begin> ReadBegin(const Step& step,
                                            const json& piece) {
  HfPipeline::Begin begin;
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

absl::Status ReadTemplate(const Step& step, HfPipeline& pipeline) {
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
  if (single->size() == 2) {
    ASSIGN_OR_RETURN(pipeline.begin, ReadBegin(step, (*single)[0]));
  }
  return ReadPiece(single->back(), "Sequence",
                   StrCat(path, "[", single->size() - 1, "]"))
      .status();
}

absl::Status ReadPostProcessor(const json& tokenizer, HfPipeline& pipeline) {
  ASSIGN_OR_RETURN(const std::vector<Step> steps,
                   ReadSteps(tokenizer, "post_processor", "processors"));
  bool has_template = false;
  for (const Step& step : steps) {
    if (step.type == "ByteLevel") {
      // Says where tokens lie in the text, not which they are.
      RETURN_IF_ERROR(CheckSettings(
          *step.value, step.path,
          {{"add_prefix_space", {}}, {"trim_offsets", {}}, {"use_regex", {}}}));
    } else if (step.type == "TemplateProcessing" &&
               !std::exchange(has_template, true)) {
      RETURN_IF_ERROR(ReadTemplate(step, pipeline));
    } else {
      return UnknownSteps("post_processor", steps,
                          "ByteLevel and one TemplateProcessing");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDecoder(const json& tokenizer) {
  ASSIGN_OR_RETURN(const std::vector<Step> steps,
                   ReadSteps(tokenizer, "decoder", "decoders"));
  if (steps.size() != 1 || steps[0].type != "ByteLevel") {
    return UnknownSteps("decoder", steps, "[ByteLevel]");
  }
  return CheckSettings(
      *steps[0].value, steps[0].path,
      {{"add_prefix_space", {}}, {"trim_offsets", {}}, {"use_regex", {}}});
}

}  // namespace

absl::StatusOr<HfPipeline> ReadHfPipeline(const json& tokenizer) {
  HfPipeline pipeline;
  RETURN_IF_ERROR(ReadNormalizer(tokenizer, pipeline));
  RETURN_IF_ERROR(ReadPreTokenizer(tokenizer, pipeline));
  RETURN_IF_ERROR(ReadPostProcessor(tokenizer, pipeline));
  RETURN_IF_ERROR(CheckDecoder(tokenizer));
  return pipeline;
}

}  // namespace sparseserve
