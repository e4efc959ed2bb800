#include "engine/tokenizer/vocabulary_tokenizer.h"

#include <limits>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/utf8.h"

namespace sparseserve {
namespace {

// A marked space takes three bytes, and what is merged fewer than 2^31.
constexpr size_t kMaxTextBytes = std::numeric_limits<int32_t>::max() / 4;
constexpr size_t kMaxTokens = std::numeric_limits<int32_t>::max();

// A row of the model's matrices that stands for nothing.
bool IsPlaceholder(const Vocabulary& vocabulary, size_t id) {
  return vocabulary.kinds[id] == TokenKind::kUnused &&
         vocabulary.tokens[id].empty();
}

// A merge's two halves: everything before and after its one space.
absl::StatusOr<std::pair<std::string_view, std::string_view>> SplitMerge(
    std::string_view merge, size_t number) {
  const size_t space = merge.find(' ');
  if (space == std::string_view::npos || space == 0 ||
      space + 1 == merge.size() || merge.find(' ', space + 1) != merge.npos) {
    return absl::InvalidArgumentError(
        StrCat("merge ", number, ", ", Quoted(merge),
               ", is not two tokens with a space between"));
  }
  return std::make_pair(merge.substr(0, space), merge.substr(space + 1));
}

}  // namespace

absl::Status VocabularyTokenizer::Encoding::TooMany() const {
  return absl::OutOfRangeError(StrCat("more than ", max_tokens, " tokens"));
}

absl::StatusOr<VocabularyTokenizer::TokenIndex>
VocabularyTokenizer::IndexTokens(const Vocabulary& vocabulary) {
  const size_t size = vocabulary.tokens.size();
  if (size == 0 || size > kMaxTokens) {
    return absl::InvalidArgumentError(StrCat(
        "a vocabulary of ", size, " tokens, not within 1 and ", kMaxTokens));
  }
  if (vocabulary.kinds.size() != size) {
    return absl::InvalidArgumentError(StrCat("a vocabulary of ", size,
                                             " tokens has the kinds of ",
                                             vocabulary.kinds.size()));
  }
  TokenIndex index;
  index.reserve(size);
  for (size_t id = 0; id < size; ++id) {
    if (IsPlaceholder(vocabulary, id)) continue;
    const auto [entry, added] =
        index.emplace(vocabulary.tokens[id], static_cast<TokenId>(id));
    if (!added) {
      return absl::InvalidArgumentError(StrCat("token ", id, " repeats token ",
                                               entry->second, ", ",
                                               Quoted(vocabulary.tokens[id])));
    }
  }
  return index;
}

absl::Status VocabularyTokenizer::SetTokens(
    const Vocabulary& vocabulary,
    absl::FunctionRef<std::string(const std::string& token)> bytes_of) {
  std::vector<AddedTokens::Literal> user_defined;
  std::vector<AddedTokens::Literal> user_defined_and_special;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& text = vocabulary.tokens[id];
    const TokenKind kind = vocabulary.kinds[id];
    special_.push_back(IsSpecialKind(kind));
    bytes_.push_back(IsLiteralKind(kind) ? text : bytes_of(text));
    bound_.Add(bytes_.back());
    if (!IsLiteralKind(kind)) continue;
    if (text.empty() || text.size() > AddedTokens::kMaxBytes) {
      return absl::InvalidArgumentError(
          StrCat("token ", id, ", special or user-defined, has ", text.size(),
                 " bytes, not within 1 and ", AddedTokens::kMaxBytes));
    }
    const TokenId token = static_cast<TokenId>(id);
    user_defined_and_special.push_back({text, token});
    if (!IsSpecialKind(kind)) user_defined.push_back({text, token});
  }
  user_defined_ = AddedTokens(std::move(user_defined));
  user_defined_and_special_ = AddedTokens(std::move(user_defined_and_special));
  begin_token_ = vocabulary.begin_token;
  prompts_begin_ = vocabulary.prompts_begin;
  end_tokens_ = vocabulary.end_tokens;
  return CheckBeginAndEnd();
}

absl::Status VocabularyTokenizer::CheckBeginAndEnd() const {
  const auto check = [this](const char* what, TokenId token) {
    if (token >= 0 && token < vocab_size()) return absl::OkStatus();
    return absl::InvalidArgumentError(StrCat(
        what, " token ", token, " is not within 0 and ", vocab_size() - 1));
  };
  if (begin_token_) RETURN_IF_ERROR(check("begin", *begin_token_));
  for (const TokenId token : end_tokens_) RETURN_IF_ERROR(check("end", token));
  return absl::OkStatus();
}

absl::Status VocabularyTokenizer::SetMerges(const Vocabulary& vocabulary,
                                            const TokenIndex& index) {
  for (size_t number = 0; number < vocabulary.merges.size(); ++number) {
    const std::string& merge = vocabulary.merges[number];
    ASSIGN_OR_RETURN(const auto halves, SplitMerge(merge, number));
    const auto left = index.find(halves.first);
    const auto right = index.find(halves.second);
    const auto merged = index.find(StrCat(halves.first, halves.second));
    for (const auto& found : {left, right, merged}) {
      // A special token must never come out of ordinary text.
      if (found == index.end() ||
          IsSpecialKind(vocabulary.kinds[found->second])) {
        return absl::InvalidArgumentError(
            StrCat("merge ", number, ", ", Quoted(merge),
                   ": a part or the result is no ordinary token"));
      }
    }
    if (!merger_.Add(left->second, right->second, merged->second)) {
      return absl::InvalidArgumentError(
          StrCat("merge ", number, ", ", Quoted(merge), ", occurs twice"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> VocabularyTokenizer::Encode(
    std::string_view text, bool parse_special, int64_t max_tokens) const {
  return EncodeText(text,
                    parse_special ? user_defined_and_special_ : user_defined_,
                    /*is_begin=*/true, max_tokens);
}

absl::StatusOr<std::vector<TokenId>> VocabularyTokenizer::EncodeContinuation(
    std::string_view text, int64_t max_tokens) const {
  return EncodeText(text, user_defined_, /*is_begin=*/false, max_tokens);
}

absl::StatusOr<std::vector<TokenId>> VocabularyTokenizer::EncodeText(
    std::string_view text, const AddedTokens& added, bool is_begin,
    int64_t max_tokens) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        StrCat("a text of ", text.size(), " bytes; at most ", kMaxTextBytes));
  }
  if (const std::optional<size_t> invalid = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        StrCat("not valid UTF-8 at byte ", *invalid));
  }
  Encoding encoding{.max_tokens = max_tokens};
  size_t offset = 0;
  while (offset < text.size()) {
    const auto match = added.FindNext(text, offset);
    const size_t end = match ? match->offset : text.size();
    if (end > offset) {
      RETURN_IF_ERROR(EncodeSegment(text.substr(offset, end - offset),
                                    is_begin && offset == 0, encoding));
    }
    if (encoding.room() < 0) return encoding.TooMany();
    if (!match) break;
    encoding.tokens.push_back(match->token);
    offset = end + match->bytes;
  }
  if (encoding.room() < 0) return encoding.TooMany();
  return std::move(encoding.tokens);
}

std::string_view VocabularyTokenizer::TokenBytes(TokenId token) const {
  SPARSESERVE_CHECK(token >= 0 && token < vocab_size());
  return bytes_[token];
}

bool VocabularyTokenizer::IsSpecial(TokenId token) const {
  SPARSESERVE_CHECK(token >= 0 && token < vocab_size());
  return special_[token];
}

}  // namespace sparseserve
