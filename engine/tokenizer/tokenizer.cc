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

}  // namespace sparseserve
