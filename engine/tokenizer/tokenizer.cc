#include "engine/tokenizer/tokenizer.h"

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {

absl::StatusOr<std::vector<TokenId>> Tokenizer::EncodePrompt(
    std::string_view text, bool parse_special, int64_t max_tokens) const {
  const std::optional<TokenId> begin = begin_token();
  if (!prompts_begin() || !begin.has_value()) {
    return Encode(text, parse_special, max_tokens);
  }
  if (max_tokens < 1) {
    return absl::OutOfRangeError(StrCat("more than ", max_tokens, " tokens"));
  }
  ASSIGN_OR_RETURN(std::vector<TokenId> tokens,
                   Encode(text, parse_special, max_tokens - 1));
  tokens.insert(tokens.begin(), *begin);
  return tokens;
}

std::string Tokenizer::Decode(absl::Span<const TokenId> tokens) const {
  std::string bytes;
  for (const TokenId token : tokens) bytes.append(TokenBytes(token));
  if (drops_first_space() && !bytes.empty() && bytes[0] == ' ') {
    bytes.erase(0, 1);
  }
  return bytes;
}

}  // namespace sparseserve
