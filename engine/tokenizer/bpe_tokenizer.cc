#include "engine/tokenizer/bpe_tokenizer.h"

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/nfc.h"

namespace sparseserve {
namespace {

constexpr TokenId kNoToken = -1;

}  // namespace

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::Create(
    const BpeVocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const TokenIndex index, IndexTokens(vocabulary));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(vocabulary));
  RETURN_IF_ERROR(tokenizer->SetTokens(vocabulary, [](const std::string& text) {
    // A token with a character outside the alphabet stands for itself.
    return AlphabetToBytes(text).value_or(text);
  }));
  RETURN_IF_ERROR(tokenizer->SetBytes(vocabulary, index));
  RETURN_IF_ERROR(tokenizer->SetMerges(vocabulary, index));
  if (vocabulary.ignore_merges) tokenizer->SetWholeWords(vocabulary);
  return tokenizer;
}

BpeTokenizer::BpeTokenizer(const BpeVocabulary& vocabulary)
    : normalizes_nfc_(vocabulary.normalizes_nfc),
      splitter_(vocabulary.pre_split) {}

absl::Status BpeTokenizer::SetBytes(const BpeVocabulary& vocabulary,
                                    const TokenIndex& index) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = index.find(ByteToAlphabet(static_cast<uint8_t>(byte)));
    if (found != index.end() &&
        !IsLiteralKind(vocabulary.kinds[found->second])) {
      byte_tokens_[byte] = found->second;
      continue;
    }
    if (byte >= ' ' && byte <= '~') {
      return absl::InvalidArgumentError(
          StrCat("the vocabulary has no token for the byte ", byte,
                 ": it is not a byte-level one"));
    }
    byte_tokens_[byte] = kNoToken;
    bound_.Exempt(static_cast<uint8_t>(byte));
  }
  return absl::OkStatus();
}

void BpeTokenizer::SetWholeWords(const BpeVocabulary& vocabulary) {
  for (size_t id = 0; id < bytes().size(); ++id) {
    if (vocabulary.kinds[id] != TokenKind::kNormal) continue;
    whole_words_.emplace(bytes()[id], static_cast<TokenId>(id));
  }
}

absl::Status BpeTokenizer::EncodeSegment(std::string_view segment,
                                         bool /*is_begin*/,
                                         Encoding& encoding) const {
  std::string normalized;
  if (normalizes_nfc_) {
    normalized = NormalizeNfc(segment);
    segment = normalized;
  }
  if (bound_.Exceeded(encoding.room(), segment)) return encoding.TooMany();
  return splitter_.Split(segment, [&](std::string_view word) {
    EncodeWord(word, encoding);
    return encoding.room() >= 0;
  });
}

void BpeTokenizer::EncodeWord(std::string_view word, Encoding& encoding) const {
  const auto whole = whole_words_.find(word);
  if (whole != whole_words_.end()) {
    encoding.tokens.push_back(whole->second);
    return;
  }
  std::vector<TokenId>& symbols = encoding.word;
  symbols.clear();
  for (const char byte : word) {
    const TokenId token = byte_tokens_[static_cast<uint8_t>(byte)];
    if (token != kNoToken) symbols.push_back(token);
  }
  merger_.Apply(symbols, encoding.scratch);
  encoding.tokens.insert(encoding.tokens.end(), symbols.begin(), symbols.end());
}

}  // namespace sparseserve
