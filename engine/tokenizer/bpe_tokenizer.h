#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/step.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/pair_merger.h"
#include "engine/tokenizer/pre_splitter.h"
#include "engine/tokenizer/token_count_bound.h"
#include "engine/tokenizer/token_kind.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// A byte-level BPE vocabulary as model files hold it.
struct BpeVocabulary {
  // By id. Control, unknown and user-defined tokens are literal text; the
  // others are in the byte alphabet (byte_alphabet.h). Unused ones may be
  // empty.
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;  // by id
  // "left right", both tokens in the byte alphabet, by falling priority.
  std::vector<std::string> merges;
  PreSplit pre_split = PreSplit::kGpt2;
  // A word that is a token as a whole is taken as it is, unmerged.
  bool ignore_merges = false;
  // Text between added tokens is first brought to Unicode's form NFC.
  bool normalizes_nfc = false;
  std::optional<TokenId> begin_token;
  bool prompts_begin = false;
  std::vector<TokenId> end_tokens;
};

// Byte-level byte-pair encoding: user-defined tokens (and special ones where
// asked) are found first, the text between is split into words, and each word's
// bytes are merged by the vocabulary's rules.
//
// A vocabulary may lack bytes that its training text never had; such a byte
// disappears from the encoding, as it does in the software that models are
// trained with. Every byte of printable ASCII must be there.
class BpeTokenizer : public Tokenizer {
 public:
  // INVALID_ARGUMENT names what is wrong: sizes that differ, a repeated or
  // missing token, a merge that is repeated or whose parts or result are no
  // ordinary tokens, a begin or end token out of range.
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> Create(
      const BpeVocabulary& vocabulary);

  using Tokenizer::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      std::string_view text, bool parse_special,
      int64_t max_tokens) const override;
  std::string_view TokenBytes(TokenId token) const override;
  bool IsSpecial(TokenId token) const override;
  int vocab_size() const override { return static_cast<int>(bytes_.size()); }
  std::optional<TokenId> begin_token() const override { return begin_token_; }
  bool prompts_begin() const override { return prompts_begin_; }
  const std::vector<TokenId>& end_tokens() const override {
    return end_tokens_;
  }

 private:
  explicit BpeTokenizer(const BpeVocabulary& vocabulary);

  using TokenIndex = absl::flat_hash_map<std::string_view, TokenId>;

  absl::Status AddTokens(const BpeVocabulary& vocabulary);
  absl::Status AddBytes(const BpeVocabulary& vocabulary,
                        const TokenIndex& index);
  absl::Status AddMerges(const BpeVocabulary& vocabulary,
                         const TokenIndex& index);
  absl::Status CheckBeginAndEnd() const;
  void AddWholeWords(const BpeVocabulary& vocabulary);
  void MeasureTokens();

  // One call of Encode().
  struct Encoding {
    int64_t max_tokens;
    std::vector<TokenId> tokens;
    std::vector<TokenId> word;
    PairMerger::Scratch scratch;
  };
  // Appends the tokens of text without added tokens.
  absl::Status EncodeOrdinary(std::string_view text, Encoding& encoding) const;
  void EncodeWord(std::string_view piece, Encoding& encoding) const;

  std::vector<std::string> bytes_;             // by id
  std::vector<bool> special_;                  // by id
  std::array<TokenId, 256> byte_tokens_ = {};  // -1: the vocabulary has none
  // Views into bytes_; empty unless merges are ignored for them.
  TokenIndex whole_words_;
  TokenCountBound bound_;
  const bool normalizes_nfc_;
  const std::optional<TokenId> begin_token_;
  const bool prompts_begin_;
  const std::vector<TokenId> end_tokens_;
  PreSplitter splitter_;
  PairMerger merger_;
  AddedTokens user_defined_;
  AddedTokens user_defined_and_special_;
};

}  // namespace sparseserve
