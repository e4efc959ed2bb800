#include "engine/tokenizer/sentence_piece_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/utf8.h"

namespace sparseserve {
namespace {

constexpr std::string_view kMark = "\xe2\x96\x81";  // U+2581

std::string ByteToken(int byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
}

// Distinct for each character, which has at most four bytes.
uint32_t KeyOf(std::string_view character) {
  uint32_t key = 0;
  for (const char byte : character) key = key << 8 | static_cast<uint8_t>(byte);
  return key;
}

// Whether merges may lead to it.
bool CanBeMade(TokenKind kind) {
  return kind == TokenKind::kNormal || kind == TokenKind::kUserDefined;
}

}  // namespace

std::optional<int> SentencePieceTokenizer::ByteOf(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x") return std::nullopt;
  for (int byte = 0; byte < 256; ++byte) {
    if (ByteToken(byte) == token) return byte;
  }
  return std::nullopt;
}

std::string SentencePieceTokenizer::MarksToSpaces(std::string_view token) {
  std::string text;
  for (size_t mark; (mark = token.find(kMark)) != token.npos;) {
    text.append(token.substr(0, mark)).append(" ");
    token.remove_prefix(mark + kMark.size());
  }
  return text.append(token);
}

absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>>
SentencePieceTokenizer::Create(const SentencePieceVocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const TokenIndex index, IndexTokens(vocabulary));
  std::unique_ptr<SentencePieceTokenizer> tokenizer(new SentencePieceTokenizer(
      vocabulary.prefix, vocabulary.drops_first_space));
  RETURN_IF_ERROR(tokenizer->SetTokens(vocabulary, [](const std::string& text) {
    const std::optional<int> byte = ByteOf(text);
    return byte ? std::string(1, static_cast<char>(*byte))
                : MarksToSpaces(text);
  }));
  RETURN_IF_ERROR(tokenizer->SetBytes(vocabulary, index));
  tokenizer->SetCharacters(vocabulary);
  if (vocabulary.scores.empty()) {
    RETURN_IF_ERROR(tokenizer->SetMerges(vocabulary, index));
  } else {
    RETURN_IF_ERROR(tokenizer->SetScores(vocabulary, index));
  }
  return tokenizer;
}

absl::Status SentencePieceTokenizer::SetBytes(
    const SentencePieceVocabulary& vocabulary, const TokenIndex& index) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = index.find(ByteToken(byte));
    if (found == index.end() ||
        IsLiteralKind(vocabulary.kinds[found->second])) {
      return absl::InvalidArgumentError(
          StrCat("the vocabulary has no token ", ByteToken(byte),
                 ": only those with one for every byte are supported"));
    }
    byte_tokens_[byte] = found->second;
  }
  return absl::OkStatus();
}

void SentencePieceTokenizer::SetCharacters(
    const SentencePieceVocabulary& vocabulary) {
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& text = vocabulary.tokens[id];
    // What is encoded has its spaces marked.
    if (CanBeMade(vocabulary.kinds[id])) bound_.Add(text);
    if (!CanBeMade(vocabulary.kinds[id]) || text.empty()) continue;
    const Utf8Prefix prefix = ReadUtf8Prefix(text);
    if (prefix.kind == Utf8Prefix::Kind::kCharacter &&
        prefix.bytes == text.size()) {
      characters_.emplace(KeyOf(text), static_cast<TokenId>(id));
    }
  }
}

absl::Status SentencePieceTokenizer::SetScores(
    const SentencePieceVocabulary& vocabulary, const TokenIndex& index) {
  const std::vector<float>& scores = vocabulary.scores;
  if (scores.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        StrCat("a vocabulary of ", vocabulary.tokens.size(),
               " tokens has the scores of ", scores.size()));
  }
  std::vector<TokenId> made;
  for (size_t id = 0; id < scores.size(); ++id) {
    if (!std::isfinite(scores[id])) {
      return absl::InvalidArgumentError(
          StrCat("token ", id, " has the score ", scores[id]));
    }
    if (!CanBeMade(vocabulary.kinds[id])) continue;
    if (vocabulary.tokens[id].size() > kMaxTokenBytes) {
      return absl::InvalidArgumentError(
          StrCat("token ", id, " has ", vocabulary.tokens[id].size(),
                 " bytes, at most ", kMaxTokenBytes));
    }
    made.push_back(static_cast<TokenId>(id));
  }
  std::stable_sort(made.begin(), made.end(), [&scores](TokenId a, TokenId b) {
    return scores[a] > scores[b];
  });
  uint32_t rank = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    // Of equal scores the leftmost goes first.
    if (i > 0 && scores[made[i]] < scores[made[i - 1]]) ++rank;
    const std::string_view text = vocabulary.tokens[made[i]];
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = index.find(text.substr(0, cut));
      const auto right = index.find(text.substr(cut));
      if (left == index.end() || right == index.end()) continue;
      if (!CanBeMade(vocabulary.kinds[left->second]) ||
          !CanBeMade(vocabulary.kinds[right->second])) {
        continue;
      }
      // No other pair of tokens has the same two texts.
      SPARSESERVE_CHECK(
          merger_.Add(left->second, right->second, made[i], rank));
    }
  }
  return absl::OkStatus();
}

std::string SentencePieceTokenizer::Mark(std::string_view segment,
                                         bool is_begin) const {
  std::string marked;
  const bool begins_with_space =
      segment[0] == ' ' || segment.substr(0, kMark.size()) == kMark;
  const bool is_place =
      prefix_.where == SpacePrefix::Where::kAfterAddedTokens ||
      (prefix_.where == SpacePrefix::Where::kTextStart && is_begin);
  if (is_place && (prefix_.always || !begins_with_space)) marked += kMark;
  marked.reserve(segment.size() + segment.size() / 4);
  for (const char c : segment) {
    if (c == ' ') {
      marked += kMark;
    } else {
      marked += c;
    }
  }
  return marked;
}

absl::Status SentencePieceTokenizer::EncodeSegment(std::string_view segment,
                                                   bool is_begin,
                                                   Encoding& encoding) const {
  const std::string marked = Mark(segment, is_begin);
  if (bound_.Exceeded(encoding.room(), marked)) return encoding.TooMany();
  std::vector<TokenId>& symbols = encoding.word;
  symbols.clear();
  std::string_view rest = marked;
  while (!rest.empty()) {
    const size_t bytes = ReadUtf8Prefix(rest).bytes;
    const std::string_view character = rest.substr(0, bytes);
    rest.remove_prefix(bytes);
    if (const auto found = characters_.find(KeyOf(character));
        found != characters_.end()) {
      symbols.push_back(found->second);
      continue;
    }
    for (const char byte : character) {
      symbols.push_back(byte_tokens_[static_cast<uint8_t>(byte)]);
    }
  }
  merger_.Apply(symbols, encoding.scratch);
  encoding.tokens.insert(encoding.tokens.end(), symbols.begin(), symbols.end());
  return absl::OkStatus();
}

}  // namespace sparseserve
