#include "engine/model/gguf_vocabulary.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/end_texts.h"

namespace sparseserve {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kKindsKey = "tokenizer.ggml.token_type";
constexpr std::string_view kBeginKey = "tokenizer.ggml.bos_token_id";
constexpr std::string_view kAddBeginKey = "tokenizer.ggml.add_bos_token";
// Keys of tokens that end a text or a turn.
constexpr std::array<std::string_view, 3> kEndKeys = {
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id"};
// Changes to the text or its tokens that no model here asks for.
constexpr std::array<std::string_view, 2> kUnsupportedFlags = {
    "tokenizer.ggml.add_eos_token", "tokenizer.ggml.remove_extra_whitespaces"};

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

absl::Status ReadBegin(const GgufMetadata& metadata, bool begins_by_default,
                       Vocabulary& vocabulary) {
  if (metadata.Has(kBeginKey)) {
    ASSIGN_OR_RETURN(
        vocabulary.begin_token,
        ReadTokenId(metadata, kBeginKey, vocabulary.tokens.size()));
  }
  ASSIGN_OR_RETURN(vocabulary.prompts_begin,
                   ReadGgufFlag(metadata, kAddBeginKey, begins_by_default));
  if (vocabulary.prompts_begin && !vocabulary.begin_token.has_value()) {
    return absl::InvalidArgumentError(
        StrCat("prompts begin with a token, but there is no ", kBeginKey));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> ReadEndTokens(
    const GgufMetadata& metadata, const Vocabulary& vocabulary) {
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

}  // namespace

absl::StatusOr<bool> ReadGgufFlag(const GgufMetadata& metadata,
                                  std::string_view key, bool otherwise) {
  if (!metadata.Has(key)) return otherwise;
  return metadata.GetBool(key);
}

absl::Status ReadGgufVocabulary(const GgufMetadata& metadata,
                                bool begins_by_default,
                                Vocabulary& vocabulary) {
  for (const std::string_view key : kUnsupportedFlags) {
    ASSIGN_OR_RETURN(const bool value,
                     ReadGgufFlag(metadata, key, /*otherwise=*/false));
    if (value) {
      return absl::InvalidArgumentError(
          StrCat(key, " is true; only false is supported"));
    }
  }
  ASSIGN_OR_RETURN(const std::vector<std::string_view> tokens,
                   metadata.GetStringArray(kTokensKey));
  vocabulary.tokens.assign(tokens.begin(), tokens.end());
  ASSIGN_OR_RETURN(vocabulary.kinds, ReadKinds(metadata, tokens.size()));
  if (vocabulary.kinds.size() != tokens.size()) {
    return absl::InvalidArgumentError(
        StrCat(kKindsKey, " has ", vocabulary.kinds.size(), " elements, but ",
               kTokensKey, " has ", tokens.size()));
  }
  RETURN_IF_ERROR(ReadBegin(metadata, begins_by_default, vocabulary));
  ASSIGN_OR_RETURN(vocabulary.end_tokens, ReadEndTokens(metadata, vocabulary));
  return absl::OkStatus();
}

}  // namespace sparseserve
