#include "engine/model/hf_tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/hf_pipeline.h"
#include "engine/model/hf_post_processor.h"
#include "engine/model/hf_vocabulary.h"
#include "engine/model/json_document.h"
#include "engine/tokenizer/bpe_tokenizer.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/end_texts.h"
#include "engine/tokenizer/recognize_template.h"
#include "engine/tokenizer/sentence_piece_tokenizer.h"

namespace sparseserve {
namespace {

using nlohmann::json;

constexpr std::string_view kConfig = "tokenizer_config.json";

// What tokenizer_config.json adds.
struct Config {
  std::optional<std::string> begin_text;
  std::optional<std::string> end_text;
  std::optional<bool> prompts_begin;
  std::optional<bool> adds_space;
};

// Empty text is a configuration without members.
absl::StatusOr<json> ParseConfig(std::string_view text) {
  if (text.empty()) return json::object();
  ASSIGN_OR_RETURN(json config, ParseJson(text, kConfig));
  RETURN_IF_ERROR(CheckJsonObject(config, kConfig));
  return config;
}

// A token is written as its text, or as an object with its content.
absl::StatusOr<std::optional<std::string>> ReadTokenText(const json& config,
                                                         const char* key) {
  const json* value = FindMember(config, key);
  if (value == nullptr) return std::nullopt;
  std::string path = StrCat(kConfig, ".", key);
  if (const json* content = FindMember(*value, "content")) {
    value = content;
    path += ".content";
  }
  ASSIGN_OR_RETURN(std::string text, JsonString(*value, path));
  return text;
}

absl::StatusOr<std::optional<bool>> ReadFlag(const json& config,
                                             const char* key) {
  const json* value = FindMember(config, key);
  if (value == nullptr) return std::nullopt;
  return JsonBool(*value, StrCat(kConfig, ".", key));
}

absl::StatusOr<Config> ReadConfig(std::string_view text) {
  ASSIGN_OR_RETURN(const json document, ParseConfig(text));
  ASSIGN_OR_RETURN(const std::optional<bool> adds_end,
                   ReadFlag(document, "add_eos_token"));
  if (adds_end.value_or(false)) {
    return absl::InvalidArgumentError(
        StrCat(kConfig, ".add_eos_token is true; only false is supported"));
  }
  Config config;
  ASSIGN_OR_RETURN(config.begin_text, ReadTokenText(document, "bos_token"));
  ASSIGN_OR_RETURN(config.end_text, ReadTokenText(document, "eos_token"));
  ASSIGN_OR_RETURN(config.prompts_begin, ReadFlag(document, "add_bos_token"));
  ASSIGN_OR_RETURN(config.adds_space, ReadFlag(document, "add_prefix_space"));
  return config;
}

absl::StatusOr<TokenId> FindToken(const Vocabulary& vocabulary,
                                  std::string_view text, const char* key) {
  const auto& tokens = vocabulary.tokens;
  const auto found = std::find(tokens.begin(), tokens.end(), text);
  if (!text.empty() && found != tokens.end()) {
    return static_cast<TokenId>(found - tokens.begin());
  }
  return absl::InvalidArgumentError(
      StrCat(kConfig, ".", key, " is ", Quoted(text), ", no token"));
}

absl::Status SetBegin(const std::optional<HfBegin>& post_processor,
                      const Config& config, Vocabulary& vocabulary) {
  if (config.begin_text.has_value()) {
    ASSIGN_OR_RETURN(vocabulary.begin_token,
                     FindToken(vocabulary, *config.begin_text, "bos_token"));
  }
  if (post_processor.has_value()) {
    const auto& [text, id] = *post_processor;
    if (id >= static_cast<int64_t>(vocabulary.tokens.size()) ||
        vocabulary.tokens[id] != text) {
      return absl::InvalidArgumentError(
          StrCat("tokenizer.json: post_processor says that ", Quoted(text),
                 " is token ", id, ", which it is not"));
    }
    if (vocabulary.begin_token.has_value() && *vocabulary.begin_token != id) {
      return absl::InvalidArgumentError(StrCat(
          "tokenizer.json: post_processor begins texts with ", Quoted(text),
          ", but ", kConfig, ".bos_token is ", Quoted(*config.begin_text)));
    }
    vocabulary.begin_token = static_cast<TokenId>(id);
  }
  // The configuration is read last by those who trained the model.
  vocabulary.prompts_begin =
      config.prompts_begin.value_or(post_processor.has_value());
  if (vocabulary.prompts_begin && !vocabulary.begin_token.has_value()) {
    return absl::InvalidArgumentError(
        StrCat(kConfig, ".add_bos_token is true, but there is no bos_token"));
  }
  return absl::OkStatus();
}

absl::Status SetEndTokens(const Config& config,
                          absl::Span<const TokenId> more_end_tokens,
                          Vocabulary& vocabulary) {
  std::vector<TokenId>& ends = vocabulary.end_tokens;
  const auto add = [&ends](TokenId token) {
    if (std::find(ends.begin(), ends.end(), token) == ends.end()) {
      ends.push_back(token);
    }
  };
  if (config.end_text.has_value()) {
    ASSIGN_OR_RETURN(const TokenId token,
                     FindToken(vocabulary, *config.end_text, "eos_token"));
    add(token);
  }
  for (const TokenId token : more_end_tokens) add(token);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.kinds[id] == TokenKind::kControl &&
        IsEndText(vocabulary.tokens[id])) {
      add(static_cast<TokenId>(id));
    }
  }
  return absl::OkStatus();
}

// Bytes without a token would become `unk_token`, which is not supported; the
// tokenizer leaves them out.
absl::Status CheckUnknownToken(const json& tokenizer) {
  const json* unknown = FindMember(tokenizer["model"], "unk_token");
  if (unknown == nullptr) return absl::OkStatus();
  const json& vocab = tokenizer["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) {
    if (vocab.contains(ByteToAlphabet(static_cast<uint8_t>(byte)))) continue;
    return absl::InvalidArgumentError(
        StrCat("tokenizer.json: model.unk_token is ", ShownJson(*unknown),
               " and the byte ", byte,
               " has no token; one or the other is supported"));
  }
  return absl::OkStatus();
}

// The configuration's word on a space before texts must be the pipeline's.
absl::Status CheckSpace(const Config& config, bool adds_space) {
  if (config.adds_space.value_or(adds_space) == adds_space) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat(kConfig, ".add_prefix_space is ",
                                           adds_space ? "false" : "true",
                                           ", against tokenizer.json"));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeByteLevel(
    const json& document, const HfPipeline& pipeline, const HfModel& model,
    Vocabulary common) {
  if (model.byte_fallback) {
    return absl::InvalidArgumentError(
        "tokenizer.json: model.byte_fallback is true, but the pre_tokenizer "
        "is ByteLevel");
  }
  RETURN_IF_ERROR(CheckUnknownToken(document));
  const BpeVocabulary vocabulary = {{std::move(common)},
                                    pipeline.pre_split,
                                    model.ignore_merges,
                                    pipeline.normalizes_nfc};
  return BpeTokenizer::Create(vocabulary);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePiece(
    const HfPipeline& pipeline, const HfModel& model, Vocabulary common) {
  if (!model.byte_fallback || model.ignore_merges) {
    return absl::InvalidArgumentError(StrCat(
        "tokenizer.json: model.byte_fallback must be true and "
        "model.ignore_merges false where the pre_tokenizer is not ByteLevel"));
  }
  for (size_t id = 0; id < common.tokens.size(); ++id) {
    if (common.kinds[id] == TokenKind::kNormal &&
        SentencePieceTokenizer::ByteOf(common.tokens[id]).has_value()) {
      common.kinds[id] = TokenKind::kByte;
    }
  }
  const SentencePieceVocabulary vocabulary = {{std::move(common)},
                                              /*scores=*/{},
                                              pipeline.prefix,
                                              pipeline.drops_first_space};
  return SentencePieceTokenizer::Create(vocabulary);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadHfTokenizer(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json,
    absl::Span<const TokenId> more_end_tokens, size_t least_tokens) {
  ASSIGN_OR_RETURN(const json document,
                   ParseJson(tokenizer_json, "tokenizer.json"));
  RETURN_IF_ERROR(CheckJsonObject(document, "tokenizer.json"));
  ASSIGN_OR_RETURN(const HfPipeline pipeline, ReadHfPipeline(document));
  ASSIGN_OR_RETURN(const std::optional<HfBegin> begin, ReadHfBegin(document));
  Vocabulary vocabulary;
  ASSIGN_OR_RETURN(const HfModel model,
                   ReadHfVocabulary(document, least_tokens, vocabulary));
  ASSIGN_OR_RETURN(const Config config, ReadConfig(tokenizer_config_json));
  RETURN_IF_ERROR(CheckSpace(
      config, pipeline.prefix.where != SpacePrefix::Where::kNowhere));
  RETURN_IF_ERROR(SetBegin(begin, config, vocabulary));
  RETURN_IF_ERROR(SetEndTokens(config, more_end_tokens, vocabulary));
  if (pipeline.is_byte_level) {
    return MakeByteLevel(document, pipeline, model, std::move(vocabulary));
  }
  return MakeSentencePiece(pipeline, model, std::move(vocabulary));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadHfChatTemplate(
    std::string_view tokenizer_config_json,
    std::string_view chat_template_jinja) {
  if (!chat_template_jinja.empty())
    return RecognizeChatTemplate(chat_template_jinja);
  ASSIGN_OR_RETURN(const json config, ParseConfig(tokenizer_config_json));
  const json* source = FindMember(config, "chat_template");
  if (source == nullptr) return nullptr;
  // A list of named templates: the one called "default" is for chats.
  if (source->is_array()) {
    const json* chosen = nullptr;
    for (const json& entry : *source) {
      const json* name = FindMember(entry, "name");
      if (name != nullptr && *name == "default") {
        chosen = FindMember(entry, "template");
      }
    }
    if (chosen == nullptr) return nullptr;
    source = chosen;
  }
  ASSIGN_OR_RETURN(const std::string text,
                   JsonString(*source, StrCat(kConfig, ".chat_template")));
  return RecognizeChatTemplate(text);
}

}  // namespace sparseserve
