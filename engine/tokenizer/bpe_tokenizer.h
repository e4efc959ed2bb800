#pragma once

#include <array>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/step.h"
#include "engine/tokenizer/pre_splitter.h"
#include "engine/tokenizer/vocabulary_tokenizer.h"

namespace sparseserve {

// A byte-level BPE vocabulary. Tokens and merges are in the byte alphabet
// (byte_alphabet.h), but for literals.
struct BpeVocabulary : Vocabulary {
  PreSplit pre_split = PreSplit::kGpt2;
  // A word that is a token as a whole is taken as it is, unmerged.
  bool ignore_merges = false;
  // Text between added tokens is first brought to Unicode's form NFC.
  bool normalizes_nfc = false;
};

// Byte-level byte-pair encoding: user-defined tokens (and special ones where
// asked) are found first, the text between is split into words, and each word's
// bytes are merged by the vocabulary's rules.
//
// A vocabulary may lack bytes that its training text never had; such a byte
// disappears from the encoding, as it does in the software that models are
// trained with. Every byte of printable ASCII must be there.
class BpeTokenizer : public VocabularyTokenizer {
 public:
  // INVALID_ARGUMENT names what is wrong: sizes that differ, a repeated or
  // missing token, a merge that is repeated or whose parts or result are no
  // ordinary tokens, a begin or end token out of range.
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> Create(
      const BpeVocabulary& vocabulary);

 private:
  explicit BpeTokenizer(const BpeVocabulary& vocabulary);

  absl::Status SetBytes(const BpeVocabulary& vocabulary,
                        const TokenIndex& index);
  void SetWholeWords(const BpeVocabulary& vocabulary);

  absl::Status EncodeSegment(std::string_view segment, bool is_begin,
                             Encoding& encoding) const override;
  void EncodeWord(std::string_view word, Encoding& encoding) const;

  std::array<TokenId, 256> byte_tokens_ = {};  // -1: the vocabulary has none
  // Views into bytes(); empty unless merges are ignored for them.
  TokenIndex whole_words_;
  const bool normalizes_nfc_;
  PreSplitter splitter_;
};

}  // namespace sparseserve
