#include "engine/model/hf_pipeline.h"

#include <string>
#include <string_view>
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

constexpr const char* kMark = "\xe2\x96\x81";  // U+2581

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

// Checks that a step has the members, beside what CheckSettings() says.
absl::Status RequireSettings(const HfStep& step,
                             const std::vector<JsonSetting>& settings) {
  for (const JsonSetting& setting : settings) {
    if (FindMember(*step.value, setting.key) == nullptr) {
      return absl::InvalidArgumentError(
          StrCat(step.path, ".", setting.key, " is missing"));
    }
  }
  return CheckSettings(*step.value, step.path, settings);
}

absl::Status CheckByteLevel(const HfStep& step, bool splits) {
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

absl::StatusOr<PreSplit> ReadExpression(const HfStep& step) {
  RETURN_IF_ERROR(RequireSettings(
      step,
      {{"pattern", {}}, {"behavior", {"Isolated"}}, {"invert", {false}}}));
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

absl::Status ReadByteLevel(const std::vector<HfStep>& normalizer,
                           const std::vector<HfStep>& pre_tokenizer,
                           HfPipeline& pipeline) {
  if (TypesOf(normalizer) == "[NFC]") {
    RETURN_IF_ERROR(
        CheckSettings(*normalizer[0].value, normalizer[0].path, {}));
    pipeline.normalizes_nfc = true;
  } else if (!normalizer.empty()) {
    return UnknownHfSteps("normalizer", normalizer,
                          "none and NFC where the pre_tokenizer is ByteLevel");
  }
  const std::string types = TypesOf(pre_tokenizer);
  const bool splits_itself = types != "[Split, ByteLevel]";
  if (types == "[ByteLevel]") {
    pipeline.pre_split = PreSplit::kGpt2;
  } else if (types == "[Digits, ByteLevel]") {
    pipeline.pre_split = PreSplit::kSmolLm;
    RETURN_IF_ERROR(
        RequireSettings(pre_tokenizer[0], {{"individual_digits", {true}}}));
  } else if (types == "[Split, ByteLevel]") {
    ASSIGN_OR_RETURN(pipeline.pre_split, ReadExpression(pre_tokenizer[0]));
  } else {
    return UnknownHfSteps("pre_tokenizer", pre_tokenizer,
                          "[ByteLevel], [Digits, ByteLevel], [Split, "
                          "ByteLevel], [Metaspace], and with a normalizer "
                          "none and [Split]");
  }
  return CheckByteLevel(pre_tokenizer.back(), splits_itself);
}

// A pattern that is a text, not an expression.
json TextPattern(const char* text) { return json::object({{"String", text}}); }

// Every `from` becomes `to`.
absl::Status CheckReplace(const HfStep& step, const char* from,
                          const char* to) {
  return RequireSettings(step,
                         {{"pattern", {TextPattern(from)}}, {"content", {to}}});
}

// What SentencePiece does before merging, as steps of the normalizer.
absl::Status ReadReplacement(const std::vector<HfStep>& normalizer,
                             const std::vector<HfStep>& pre_tokenizer,
                             HfPipeline& pipeline) {
  if (TypesOf(normalizer) == "[Prepend, Replace]") {
    RETURN_IF_ERROR(RequireSettings(normalizer[0], {{"prepend", {kMark}}}));
    pipeline.prefix.where = SpacePrefix::Where::kAfterAddedTokens;
  } else if (TypesOf(normalizer) != "[Replace]") {
    return UnknownHfSteps("normalizer", normalizer,
                          "[Prepend, Replace] and [Replace] where the "
                          "pre_tokenizer is not ByteLevel");
  }
  RETURN_IF_ERROR(CheckReplace(normalizer.back(), " ", kMark));
  if (pre_tokenizer.empty()) return absl::OkStatus();
  if (TypesOf(pre_tokenizer) != "[Split]") {
    return UnknownHfSteps("pre_tokenizer", pre_tokenizer, "none and [Split]");
  }
  // Finds nothing: the normalizer has left no space.
  return RequireSettings(pre_tokenizer[0],
                         {{"pattern", {TextPattern(" ")}},
                          {"behavior", {"MergedWithPrevious"}},
                          {"invert", {false}}});
}

// The same as a step of the pre_tokenizer.
absl::Status ReadMetaspace(const HfStep& step, HfPipeline& pipeline) {
  RETURN_IF_ERROR(
      RequireSettings(step, {{"replacement", {kMark}},
                             {"prepend_scheme", {"first", "always", "never"}},
                             {"split", {false}}}));
  const json& scheme = *FindMember(*step.value, "prepend_scheme");
  pipeline.prefix.always = false;
  if (scheme == "first") {
    pipeline.prefix.where = SpacePrefix::Where::kTextStart;
  } else if (scheme == "always") {
    pipeline.prefix.where = SpacePrefix::Where::kAfterAddedTokens;
  }
  return absl::OkStatus();
}

absl::Status CheckByteLevelDecoder(const std::vector<HfStep>& decoder) {
  if (TypesOf(decoder) != "[ByteLevel]") {
    return UnknownHfSteps("decoder", decoder,
                          "[ByteLevel] where the pre_tokenizer is ByteLevel");
  }
  return CheckSettings(
      *decoder[0].value, decoder[0].path,
      {{"add_prefix_space", {}}, {"trim_offsets", {}}, {"use_regex", {}}});
}

absl::Status ReadSentencePieceDecoder(const std::vector<HfStep>& decoder,
                                      HfPipeline& pipeline) {
  const std::string types = TypesOf(decoder);
  pipeline.drops_first_space = types == "[Replace, ByteFallback, Fuse, Strip]";
  if (!pipeline.drops_first_space && types != "[Replace, ByteFallback, Fuse]") {
    return UnknownHfSteps("decoder", decoder,
                          "[Replace, ByteFallback, Fuse], and Strip after "
                          "them, where the pre_tokenizer is not ByteLevel");
  }
  RETURN_IF_ERROR(CheckReplace(decoder[0], kMark, " "));
  for (const size_t i : {1, 2}) {
    RETURN_IF_ERROR(CheckSettings(*decoder[i].value, decoder[i].path, {}));
  }
  if (!pipeline.drops_first_space) return absl::OkStatus();
  return RequireSettings(decoder[3],
                         {{"content", {" "}}, {"start", {1}}, {"stop", {0}}});
}

}  // namespace

absl::StatusOr<HfPipeline> ReadHfPipeline(const json& tokenizer) {
  ASSIGN_OR_RETURN(const std::vector<HfStep> normalizer,
                   ReadHfSteps(tokenizer, "normalizer", "normalizers"));
  ASSIGN_OR_RETURN(const std::vector<HfStep> pre_tokenizer,
                   ReadHfSteps(tokenizer, "pre_tokenizer", "pretokenizers"));
  ASSIGN_OR_RETURN(const std::vector<HfStep> decoder,
                   ReadHfSteps(tokenizer, "decoder", "decoders"));
  HfPipeline pipeline;
  const bool is_metaspace = TypesOf(pre_tokenizer) == "[Metaspace]";
  const bool replaces =
      !normalizer.empty() && normalizer.back().type == "Replace";
  pipeline.is_byte_level = !is_metaspace && !replaces;
  if (pipeline.is_byte_level) {
    RETURN_IF_ERROR(ReadByteLevel(normalizer, pre_tokenizer, pipeline));
    RETURN_IF_ERROR(CheckByteLevelDecoder(decoder));
    return pipeline;
  }
  if (replaces) {
    RETURN_IF_ERROR(ReadReplacement(normalizer, pre_tokenizer, pipeline));
  } else if (!normalizer.empty()) {
    return UnknownHfSteps("normalizer", normalizer,
                          "none where the pre_tokenizer is Metaspace");
  } else {
    RETURN_IF_ERROR(ReadMetaspace(pre_tokenizer[0], pipeline));
  }
  RETURN_IF_ERROR(ReadSentencePieceDecoder(decoder, pipeline));
  return pipeline;
}

}  // namespace sparseserve
