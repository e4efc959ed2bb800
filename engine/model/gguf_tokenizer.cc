#include "engine/model/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/bpe_tokenizer.h"
#include "engine/tokenizer/chatml_template.h"
#include "engine/tokenizer/end_texts.h"
#include "engine/tokenizer/pre_splitter.h"

namespace sparseserve {
namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kPreKey = "tokenizer.ggml.pre";
constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kKindsKey = "tokenizer.ggml.token_type";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::string_view kChatTemplateKey = "tokenizer.chat_template";

// The names that converters write for a model's pre-splitting rule. "default"
// is no rule that we know: it also splits off punctuation and threes of digits.
constexpr std::pair<std::string_view, PreSplit> kPreSplits[] = {
    {"gpt-2", PreSplit::kGpt2},       {"gpt2", PreSplit::kGpt2},
    {"phi-2", PreSplit::kGpt2},       {"roberta-bpe", PreSplit::kGpt2},
    {"smollm", PreSplit::kSmolLm},    {"starcoder", PreSplit::kSmolLm},
    {"refact", PreSplit::kSmolLm},    {"codeshell", PreSplit::kSmolLm},
    {"llama-bpe", PreSplit::kLlama3}, {"llama3", PreSplit::kLlama3},
    {"llama-v3", PreSplit::kLlama3},  {"qwen2", PreSplit::kQwen2}};

constexpr std::string_view kBeginKey = "tokenizer.ggml.bos_token_id";
constexpr std::string_view kAddBeginKey = "tokenizer.ggml.add_bos_token";
// Keys of tokens that end a text or a turn.
constexpr std::array<std::string_view, 3> kEndKeys = {
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id"};
// Changes to the text or its tokens that no byte-level model here asks for.
constexpr std::array<std::string_view, 2> kUnsupportedFlags = {
    "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix"};

absl::Status CheckModel(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const std::string_view model, metadata.GetString(kModelKey));
  if (model != "gpt2") {
    return absl::InvalidArgumentError(
        StrCat(kModelKey, " is ", Quoted(model), "; known is \"gpt2\""));
  }
  for (const std::string_view key : kUnsupportedFlags) {
    if (!metadata.Has(key)) continue;
    ASSIGN_OR_RETURN(const bool value, metadata.GetBool(key));
    if (value) {
      return absl::InvalidArgumentError(
          StrCat(key, " is true; only false is supported"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PreSplit> ReadPreSplit(const GgufMetadata& metadata) {
  // Files older than the key are GPT-2's.
  if (!metadata.Has(kPreKey)) return PreSplit::kGpt2;
  ASSIGN_OR_RETURN(const std::string_view wanted, metadata.GetString(kPreKey));
  std::string known;
  for (const auto& [name, rule] : kPreSplits) {
    if (name == wanted) return rule;
    known += StrCat(known.empty() ? "" : ", ", name);
  }
  return absl::InvalidArgumentError(
      StrCat(kPreKey, " is ", Quoted(wanted), "; known are ", known));
}

absl::StatusOr<std::vector<TokenKind>> ReadKinds(const GgufMetadata& metadata,
                                                 size_t tokens) {
  if (!metadata.Has(kKindsKey)) {
    return std::vector<TokenKind>(tokens, TokenKind::kNormal);
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> numbers,
                   metadata.GetInt32Array(kKindsKey));
  std::vector<TokenKind> kinds;
  for (const int32_t number : numbers) {
    if (number < static_cast<int32_t>(TokenKind::kNormal) ||
        number > static_cast<int32_t>(TokenKind::kByte)) {
      return absl::InvalidArgumentError(StrCat(kKindsKey, " of token ",
                                               kinds.size(), " is ", number,
                                               ", not within 1 and 6"));
    }
    kinds.push_back(static_cast<TokenKind>(number));
  }
  return kinds;
}

absl::StatusOr<TokenId> ReadTokenId(const GgufMetadata& metadata,
                                    std::string_view key, size_t tokens) {
  ASSIGN_OR_RETURN(const uint32_t token, metadata.GetUint32(key));
  if (token >= tokens) {
    return absl::InvalidArgumentError(StrCat(
        key, " is ", token, ", but the vocabulary has ", tokens, " tokens"));
  }
  return static_cast<TokenId>(token);
}

absl::Status ReadBegin(const GgufMetadata& metadata,
                       BpeVocabulary& vocabulary) {
  if (metadata.Has(kBeginKey)) {
    ASSIGN_OR_RETURN(
        vocabulary.begin_token,
        ReadTokenId(metadata, kBeginKey, vocabulary.tokens.size()));
  }
  // Llama 3's files may leave the key out.
  vocabulary.prompts_begin = vocabulary.pre_split == PreSplit::kLlama3;
  if (metadata.Has(kAddBeginKey)) {
    ASSIGN_OR_RETURN(vocabulary.prompts_begin, metadata.GetBool(kAddBeginKey));
  }
  if (vocabulary.prompts_begin && !vocabulary.begin_token.has_value()) {
    return absl::InvalidArgumentError(
        StrCat("prompts begin with a token, but there is no ", kBeginKey));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> ReadEndTokens(
    const GgufMetadata& metadata, const BpeVocabulary& vocabulary) {
  std::vector<TokenId> ends;
  const auto add = [&ends](TokenId token) {
    if (std::find(ends.begin(), ends.end(), token) == ends.end()) {
      ends.push_back(token);
    }
  };
  for (const std::string_view key : kEndKeys) {
    if (!metadata.Has(key)) continue;
    ASSIGN_OR_RETURN(const TokenId token,
                     ReadTokenId(metadata, key, vocabulary.tokens.size()));
    add(token);
  }
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.kinds[id] == TokenKind::kControl &&
        IsEndText(vocabulary.tokens[id])) {
      add(static_cast<TokenId>(id));
    }
  }
  return ends;
}

absl::StatusOr<std::vector<std::string>> ReadStrings(
    const GgufMetadata& metadata, std::string_view key) {
  ASSIGN_OR_RETURN(const std::vector<std::string_view> views,
                   metadata.GetStringArray(key));
  return std::vector<std::string>(views.begin(), views.end());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const GgufMetadata& metadata) {
  RETURN_IF_ERROR(CheckModel(metadata));
  BpeVocabulary vocabulary;
  ASSIGN_OR_RETURN(vocabulary.pre_split, ReadPreSplit(metadata));
  ASSIGN_OR_RETURN(vocabulary.tokens, ReadStrings(metadata, kTokensKey));
  ASSIGN_OR_RETURN(vocabulary.kinds,
                   ReadKinds(metadata, vocabulary.tokens.size()));
  if (vocabulary.kinds.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        StrCat(kKindsKey, " has ", vocabulary.kinds.size(), " elements, but ",
               kTokensKey, " has ", vocabulary.tokens.size()));
  }
  ASSIGN_OR_RETURN(vocabulary.merges, ReadStrings(metadata, kMergesKey));
  vocabulary.ignore_merges = vocabulary.pre_split == PreSplit::kLlama3;
  // A file does not say it; the models that split so are trained on it.
  vocabulary.normalizes_nfc = vocabulary.pre_split == PreSplit::kQwen2;
  RETURN_IF_ERROR(ReadBegin(metadata, vocabulary));
  ASSIGN_OR_RETURN(vocabulary.end_tokens, ReadEndTokens(metadata, vocabulary));
  return BpeTokenizer::Create(vocabulary);
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(
    const GgufMetadata& metadata) {
  if (!metadata.Has(kChatTemplateKey)) return nullptr;
  ASSIGN_OR_RETURN(const std::string_view source,
                   metadata.GetString(kChatTemplateKey));
  return RecognizeChatMl(source);
}

}  // namespace sparseserve
