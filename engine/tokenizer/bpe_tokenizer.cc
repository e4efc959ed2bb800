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
#include "engine/tokenizer/utf8.h"

namespace sparseserve {
namespace {

constexpr size_t kMaxTextBytes = std::numeric_limits<int32_t>::max();
constexpr TokenId kNoToken = -1;
constexpr size_t kMaxTokens = std::numeric_limits<int32_t>::max();

// Shares of a token sum to it; no text that Encode() takes overflows the sum.
constexpr uint64_t kWholeToken = uint64_t{1} << 32;

absl::Status TooMany(int64_t max_tokens) {
  return absl::OutOfRangeError(StrCat("more than ", max_tokens, " tokens"));
}

bool IsLiteral(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown ||
         kind == TokenKind::kUserDefined;
}

bool IsSpecialKind(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown;
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
  std::unique_ptr<BpeTokenizer> tokenizer(
      new BpeTokenizer(vocabulary.pre_split));
  RETURN_IF_ERROR(tokenizer->AddTokens(vocabulary));
  RETURN_IF_ERROR(tokenizer->AddBytes(vocabulary, index));
  RETURN_IF_ERROR(tokenizer->AddMerges(vocabulary, index));
  RETURN_IF_ERROR(tokenizer->AddEndTokens(vocabulary));
  tokenizer->MeasureTokens();
  return tokenizer;
}

absl::Status BpeTokenizer::AddTokens(const BpeVocabulary& vocabulary) {
  std::vector<AddedTokens::Literal> user_defined;
  std::vector<AddedTokens::Literal> user_defined_and_special;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& text = vocabulary.tokens[id];
    const TokenKind kind = vocabulary.kinds[id];
    special_.push_back(IsSpecialKind(kind));
    if (!IsLiteral(kind)) {
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
        found != index.end() && !IsLiteral(vocabulary.kinds[found->second]);
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

absl::Status BpeTokenizer::AddEndTokens(const BpeVocabulary& vocabulary) {
  for (const TokenId token : vocabulary.end_tokens) {
    if (token < 0 || token >= vocab_size()) {
      return absl::InvalidArgumentError(StrCat(
          "end token ", token, " is not within 0 and ", vocab_size() - 1));
    }
  }
  end_tokens_ = vocabulary.end_tokens;
  return absl::OkStatus();
}

void BpeTokenizer::MeasureTokens() {
  std::array<size_t, 256> longest = {};  // token with the byte in it
  for (const std::string& token : bytes_) {
    for (const char byte : token) {
      size_t& most = longest[static_cast<uint8_t>(byte)];
      most = std::max(most, token.size());
    }
  }
  for (size_t byte = 0; byte < longest.size(); ++byte) {
    // A byte without a token of its own may disappear.
    if (byte_tokens_[byte] == kNoToken) continue;
    least_shares_[byte] = kWholeToken / longest[byte];
  }
}

// A token of n bytes, each in no longer token than some m >= n, has shares of
// 1/m that sum to 1 at most: the sum over a text cannot exceed its tokens.
bool BpeTokenizer::NeedsMoreThan(int64_t max_tokens,
                                 std::string_view text) const {
  if (max_tokens >= static_cast<int64_t>(text.size())) return false;
  uint64_t shares = 0;
  for (const char byte : text) {
    shares += least_shares_[static_cast<uint8_t>(byte)];
  }
  return shares / kWholeToken > static_cast<uint64_t>(max_tokens) ||
         (shares / kWholeToken == static_cast<uint64_t>(max_tokens) &&
          shares % kWholeToken > 0);
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
  if (NeedsMoreThan(max_tokens, text)) return TooMany(max_tokens);
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
  std::vector<TokenId>& word = encoding.word;
  std::vector<TokenId>& tokens = encoding.tokens;
  const auto full = [&encoding, &tokens] {
    return static_cast<int64_t>(tokens.size()) > encoding.max_tokens;
  };
  RETURN_IF_ERROR(splitter_.Split(text, [&](std::string_view piece) {
    word.clear();
    for (const char byte : piece) {
      const TokenId token = byte_tokens_[static_cast<uint8_t>(byte)];
      if (token != kNoToken) word.push_back(token);
    }
    merger_.Apply(word, encoding.scratch);
    tokens.insert(tokens.end(), word.begin(), word.end());
    return !full();
  }));
  return full() ? TooMany(encoding.max_tokens) : absl::OkStatus();
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
