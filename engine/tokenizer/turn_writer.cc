#include "engine/tokenizer/turn_writer.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {

std::optional<TokenId> FindSpecialToken(const Tokenizer& tokenizer,
                                        std::string_view text) {
  const auto tokens = tokenizer.Encode(text, /*parse_special=*/true);
  if (!tokens.ok() || tokens->size() != 1 ||
      !tokenizer.IsSpecial(tokens->front())) {
    return std::nullopt;
  }
  return tokens->front();
}

absl::Status TurnWriter::WriteBegin() {
  const std::optional<TokenId> token = tokenizer_.begin_token();
  return token.has_value() ? Write(*token) : absl::OkStatus();
}

absl::Status TurnWriter::WriteEnd() {
  if (tokenizer_.end_tokens().empty()) {
    return absl::FailedPreconditionError("the vocabulary has no end token");
  }
  return Write(tokenizer_.end_tokens().front());
}

absl::Status TurnWriter::WriteSpecial(std::string_view text) {
  const std::optional<TokenId> token = FindSpecialToken(tokenizer_, text);
  if (token.has_value()) return Write(*token);
  return absl::FailedPreconditionError(
      StrCat("the vocabulary has no special token ", text));
}

absl::Status TurnWriter::WriteMarker(std::string_view text) {
  const std::optional<TokenId> token = FindSpecialToken(tokenizer_, text);
  if (token.has_value()) return Write(*token);
  WriteText(text);
  return absl::OkStatus();
}

absl::Status TurnWriter::Write(TokenId token) {
  RETURN_IF_ERROR(Flush());
  if (max_tokens_ <= static_cast<int64_t>(tokens_.size())) {
    return absl::OutOfRangeError(StrCat("more than ", max_tokens_, " tokens"));
  }
  tokens_.push_back(token);
  return absl::OkStatus();
}

absl::Status TurnWriter::Flush() {
  if (text_.empty()) return absl::OkStatus();
  const int64_t room = max_tokens_ - static_cast<int64_t>(tokens_.size());
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens,
                   tokens_.empty()
                       ? tokenizer_.Encode(text_, /*parse_special=*/false, room)
                       : tokenizer_.EncodeContinuation(text_, room));
  text_.clear();
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> TurnWriter::Take() {
  RETURN_IF_ERROR(Flush());
  return std::move(tokens_);
}

}  // namespace sparseserve
