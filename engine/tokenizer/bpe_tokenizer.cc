#include "engine/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "engine/base/check.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/nfc.h"
#include "engine/tokenizer/utf8.h"

namespace sparseserve {
namespace {

constexpr size_t kMaxTextBytes = std::numeric_limits<int32_t>::max();
constexpr TokenId kNoToken = -1;
constexpr size_t kMaxTokens = std::numeric_limits<int32_t>::max();

absl::Status TooMany(int64_t max_tokens) {
  return absl::OutOfRangeError(StrCat("more than ", max_tokens, " tokens"));
}

// A row of the model's matrices that stands for nothing.
bool IsPlaceholder(const BpeVocabulary& vocabulary, size_t id) {
  return vocabulary.kinds[id] == TokenKind::kUnused &&
         vocabulary.tokens[id].empty();
}

absl::StatusOr<absl::flat_hash_map<std::string_view, TokenId>> IndexTokens(
    const BpeVocabulary& vocabulary) {
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
  absl::flat_hash_map<std::string_view, TokenId> index;
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

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::Create(
    const BpeVocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const TokenIndex index, IndexTokens(vocabulary));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(vocabulary));
  RETURN_IF_ERROR(tokenizer->AddTokens(vocabulary));
  RETURN_IF_ERROR(tokenizer->AddBytes(vocabulary, index));
  RETURN_IF_ERROR(tokenizer->AddMerges(vocabulary, index));
  RETURN_IF_ERROR(tokenizer->CheckBeginAndEnd());
  if (vocabulary.ignore_merges) tokenizer->AddWholeWords(vocabulary);
  tokenizer->MeasureTokens();
  return tokenizer;
}

BpeTokenizer::BpeTokenizer(const BpeVocabulary& vocabulary)
    : normalizes_nfc_(vocabulary.normalizes_nfc),
      begin_token_(vocabulary.begin_token),
      prompts_begin_(vocabulary.prompts_begin),
      end_tokens_(vocabulary.end_tokens),
      splitter_(vocabulary.pre_split) {}

absl::Status BpeTokenizer::AddTokens(const BpeVocabulary& vocabulary) {
  std::vector<AddedTokens::Literal> user_defined;
  std::vector<AddedTokens::Literal> user_defined_and_special;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& text = vocabulary.tokens[id];
    const TokenKind kind = vocabulary.kinds[id];
    special_.push_back(IsSpecialKind(kind));
    if (!IsLiteralKind(kind)) {
      // A token with a character outside the alphabet stands for itself.
      bytes_.push_back(AlphabetToBytes(text).value_or(text));
      continue;
    }
    bytes_.push_back(text);
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
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AddBytes(const BpeVocabulary& vocabulary,
                                    const TokenIndex& index) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = index.find(ByteToAlphabet(static_cast<uint8_t>(byte)));
    const bool present =
        found != index.end() && !IsLiteralKind(vocabulary.kinds[found->second]);
    byte_tokens_[byte] = present ? found->second : kNoToken;
    if (!present && byte >= ' ' && byte <= '~') {
      return absl::InvalidArgumentError(
          StrCat("the vocabulary has no token for the byte ", byte,
                 ": it is not a byte-level one"));
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AddMerges(const BpeVocabulary& vocabulary,
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

absl::Status BpeTokenizer::CheckBeginAndEnd() const {
  const auto check = [this](const char* what, TokenId token) {
    if (token >= 0 && token < vocab_size()) return absl::OkStatus();
    return absl::InvalidArgumentError(StrCat(
        what, " token ", token, " is not within 0 and ", vocab_size() - 1));
  };
  if (begin_token_) RETURN_IF_ERROR(check("begin", *begin_token_));
  for (const TokenId token : end_tokens_) RETURN_IF_ERROR(check("end", token));
  return absl::OkStatus();
}

void BpeTokenizer::AddWholeWords(const BpeVocabulary& vocabulary) {
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (vocabulary.kinds[id] != TokenKind::kNormal) continue;
    whole_words_.emplace(bytes_[id], static_cast<TokenId>(id));
  }
}

void BpeTokenizer::MeasureTokens() {
  for (const std::string& token : bytes_) bound_.Add(token);
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    if (byte_tokens_[byte] == kNoToken) {
      bound_.Exempt(static_cast<uint8_t>(byte));
    }
  }
}

absl::StatusOr<std::vector<TokenId>> BpeTokenizer::Encode(
    std::string_view text, bool parse_special, int64_t max_tokens) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        StrCat("a text of ", text.size(), " bytes; at most ", kMaxTextBytes));
  }
  if (const std::optional<size_t> invalid = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        StrCat("not valid UTF-8 at byte ", *invalid));
  }
  if (!normalizes_nfc_ && bound_.Exceeded(max_tokens, text)) {
    return TooMany(max_tokens);
  }
  const AddedTokens& added =
      parse_special ? user_defined_and_special_ : user_defined_;
  Encoding encoding{.max_tokens = max_tokens};
  size_t offset = 0;
  while (const auto match = added.FindNext(text, offset)) {
    RETURN_IF_ERROR(
        EncodeOrdinary(text.substr(offset, match->offset - offset), encoding));
    encoding.tokens.push_back(match->token);
    offset = match->offset + match->bytes;
  }
  RETURN_IF_ERROR(EncodeOrdinary(text.substr(offset), encoding));
  return std::move(encoding.tokens);
}

absl::Status BpeTokenizer::EncodeOrdinary(std::string_view text,
                                          Encoding& encoding) const {
  std::string normalized;
  const int64_t room =
      encoding.max_tokens - static_cast<int64_t>(encoding.tokens.size());
  if (room < 0) return TooMany(encoding.max_tokens);
  if (normalizes_nfc_) {
    normalized = NormalizeNfc(text);
    text = normalized;
    if (bound_.Exceeded(room, text)) return TooMany(encoding.max_tokens);
  }
  const auto full = [&encoding] {
    return static_cast<int64_t>(encoding.tokens.size()) > encoding.max_tokens;
  };
  RETURN_IF_ERROR(splitter_.Split(text, [&](std::string_view piece) {
    EncodeWord(piece, encoding);
    return !full();
  }));
  return full() ? TooMany(encoding.max_tokens) : absl::OkStatus();
}

void BpeTokenizer::EncodeWord(std::string_view piece,
                              Encoding& encoding) const {
  const auto whole = whole_words_.find(piece);
  if (whole != whole_words_.end()) {
    encoding.tokens.push_back(whole->second);
    return;
  }
  std::vector<TokenId>& word = encoding.word;
  word.clear();
  for (const char byte : piece) {
    const TokenId token = byte_tokens_[static_cast<uint8_t>(byte)];
    if (token != kNoToken) word.push_back(token);
  }
  merger_.Apply(word, encoding.scratch);
  encoding.tokens.insert(encoding.tokens.end(), word.begin(), word.end());
}

std::string_view BpeTokenizer::TokenBytes(TokenId token) const {
  SPARSESERVE_CHECK(token >= 0 && token < vocab_size());
  return bytes_[token];
}

bool BpeTokenizer::IsSpecial(TokenId token) const {
  SPARSESERVE_CHECK(token >= 0 && token < vocab_size());
  return special_[token];
}

}  // namespace sparseserve
