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
#include "engine/model/hf_vocabulary.h"
#include "engine/model/json_document.h"
#include "engine/tokenizer/bpe_tokenizer.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/chatml_template.h"
#include "engine/tokenizer/end_texts.h"

namespace sparseserve {
namespace {

using nlohmann::json;

constexpr std::string_view kConfig = "tokenizer_config.json";

// What tokenizer_config.json adds.
struct Config {
  std::optional<std::string> begin_text;
  std::optional<std::string> end_text;
  std::optional<bool> prompts_begin;
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

absl::Status CheckNotTrue(const json& config, const char* key) {
  ASSIGN_OR_RETURN(const bool value,
                   JsonBoolMember(config, key, kConfig, /*otherwise=*/false));
  if (!value) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(kConfig, ".", key, " is true; only false is supported"));
}

absl::StatusOr<Config> ReadConfig(std::string_view text) {
  ASSIGN_OR_RETURN(const json document, ParseConfig(text));
  for (const char* key : {"add_eos_token", "add_prefix_space"}) {
    RETURN_IF_ERROR(CheckNotTrue(document, key));
  }
  Config config;
  ASSIGN_OR_RETURN(config.begin_text, ReadTokenText(document, "bos_token"));
  ASSIGN_OR_RETURN(config.end_text, ReadTokenText(document, "eos_token"));
  if (FindMember(document, "add_bos_token") != nullptr) {
    ASSIGN_OR_RETURN(config.prompts_begin,
                     JsonBoolMember(document, "add_bos_token", kConfig, false));
  }
  return config;
}

absl::StatusOr<TokenId> FindToken(const HfVocabulary& vocabulary,
                                  std::string_view text, const char* key) {
  const auto& tokens = vocabulary.tokens;
  const auto found = std::find(tokens.begin(), tokens.end(), text);
  if (!text.empty() && found != tokens.end()) {
    return static_cast<TokenId>(found - tokens.begin());
  }
  return absl::InvalidArgumentError(
      StrCat(kConfig, ".", key, " is ", Quoted(text), ", no token"));
}

// How prompts begin.
struct Begin {
  std::optional<TokenId> token;
  bool prompts_begin = false;
};

absl::StatusOr<Begin> ReadBegin(const HfPipeline& pipeline,
                                const Config& config,
                                const HfVocabulary& vocabulary) {
  Begin begin;
  if (config.begin_text.has_value()) {
    ASSIGN_OR_RETURN(begin.token,
                     FindToken(vocabulary, *config.begin_text, "bos_token"));
  }
  if (pipeline.begin.has_value()) {
    const auto& [text, id] = *pipeline.begin;
    if (id >= static_cast<int64_t>(vocabulary.tokens.size()) ||
        vocabulary.tokens[id] != text) {
      return absl::InvalidArgumentError(
          StrCat("tokenizer.json: post_processor says that ", Quoted(text),
                 " is token ", id, ", which it is not"));
    }
    if (begin.token.has_value() && *begin.token != id) {
      return absl::InvalidArgumentError(StrCat(
          "tokenizer.json: post_processor begins texts with ", Quoted(text),
          ", but ", kConfig, ".bos_token is ", Quoted(*config.begin_text)));
    }
    begin.token = static_cast<TokenId>(id);
  }
  // The configuration is read last by those who trained the model.
  begin.prompts_begin =
      config.prompts_begin.value_or(pipeline.begin.has_value());
  if (begin.prompts_begin && !begin.token.has_value()) {
    return absl::InvalidArgumentError(
        StrCat(kConfig, ".add_bos_token is true, but there is no bos_token"));
  }
  return begin;
}

absl::StatusOr<std::vector<TokenId>> ReadEndTokens(
    const Config& config, const HfVocabulary& vocabulary,
    absl::Span<const TokenId> more_end_tokens) {
  std::vector<TokenId> ends;
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
  return ends;
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

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadHfTokenizer(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json,
    absl::Span<const TokenId> more_end_tokens, size_t least_tokens) {
  ASSIGN_OR_RETURN(const json document,
                   ParseJson(tokenizer_json, "tokenizer.json"));
  RETURN_IF_ERROR(CheckJsonObject(document, "tokenizer.json"));
  ASSIGN_OR_RETURN(const HfPipeline pipeline, ReadHfPipeline(document));
  ASSIGN_OR_RETURN(HfVocabulary read, ReadHfVocabulary(document, least_tokens));
  if (read.byte_fallback) {
    return absl::InvalidArgumentError(
        "tokenizer.json: model.byte_fallback is true, but the pre_tokenizer "
        "is ByteLevel");
  }
  RETURN_IF_ERROR(CheckUnknownToken(document));
  ASSIGN_OR_RETURN(const Config config, ReadConfig(tokenizer_config_json));
  ASSIGN_OR_RETURN(const Begin begin, ReadBegin(pipeline, config, read));
  BpeVocabulary vocabulary;
  ASSIGN_OR_RETURN(vocabulary.end_tokens,
                   ReadEndTokens(config, read, more_end_tokens));
  vocabulary.tokens = std::move(read.tokens);
  vocabulary.kinds = std::move(read.kinds);
  vocabulary.merges = std::move(read.merges);
  vocabulary.pre_split = pipeline.pre_split;
  vocabulary.ignore_merges = read.ignore_merges;
  vocabulary.normalizes_nfc = pipeline.normalizes_nfc;
  vocabulary.begin_token = begin.token;
  vocabulary.prompts_begin = begin.prompts_begin;
  return BpeTokenizer::Create(vocabulary);
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadHfChatTemplate(
    std::string_view tokenizer_config_json,
    std::string_view chat_template_jinja) {
  if (!chat_template_jinja.empty()) return RecognizeChatMl(chat_template_jinja);
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
  return RecognizeChatMl(text);
}

}  // namespace sparseserve
