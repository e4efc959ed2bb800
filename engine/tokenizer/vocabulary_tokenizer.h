#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/step.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/pair_merger.h"
#include "engine/tokenizer/token_count_bound.h"
#include "engine/tokenizer/token_kind.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// What vocabularies of every kind have, as model files hold them.
struct Vocabulary {
  // By id. Control, unknown and user-defined tokens are literal text. Unused
  // ones may be empty.
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;  // by id
  // "left right", by falling priority.
  std::vector<std::string> merges;
  std::optional<TokenId> begin_token;
  bool prompts_begin = false;
  std::vector<TokenId> end_tokens;
};

// What tokenizers with a table of tokens share: the table, and finding the
// added tokens of a text (user-defined ones, and special ones where asked),
// between which each encodes its own way. Immutable once made.
class VocabularyTokenizer : public Tokenizer {
 public:
  using Tokenizer::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              bool parse_special,
                                              int64_t max_tokens) const final;
  absl::StatusOr<std::vector<TokenId>> EncodeContinuation(
      std::string_view text, int64_t max_tokens) const final;
  std::string_view TokenBytes(TokenId token) const final;
  bool IsSpecial(TokenId token) const final;
  int vocab_size() const final { return static_cast<int>(bytes_.size()); }
  std::optional<TokenId> begin_token() const final { return begin_token_; }
  bool prompts_begin() const final { return prompts_begin_; }
  const std::vector<TokenId>& end_tokens() const final { return end_tokens_; }

 protected:
  using TokenIndex = absl::flat_hash_map<std::string_view, TokenId>;

  // One call of Encode().
  struct Encoding {
    int64_t max_tokens;
    std::vector<TokenId> tokens;
    // Working memory.
    std::vector<TokenId> word;
    PairMerger::Scratch scratch;

    int64_t room() const {
      return max_tokens - static_cast<int64_t>(tokens.size());
    }
    absl::Status TooMany() const;
  };

  // Tokens by their text in the vocabulary, which must outlive the index.
  // INVALID_ARGUMENT: sizes that differ, no token, a token twice.
  static absl::StatusOr<TokenIndex> IndexTokens(const Vocabulary& vocabulary);

  // INVALID_ARGUMENT: a begin or end token out of range, a literal that is too
  // long. `bytes_of` says what a token that is no literal stands for.
  absl::Status SetTokens(
      const Vocabulary& vocabulary,
      absl::FunctionRef<std::string(const std::string& token)> bytes_of);
  // INVALID_ARGUMENT: a merge that occurs twice, or whose parts or result are
  // no ordinary tokens.
  absl::Status SetMerges(const Vocabulary& vocabulary, const TokenIndex& index);

  // Appends the tokens of text without added tokens in it, which is at the
  // begin of a whole text or follows a token. Not called with an empty one.
  virtual absl::Status EncodeSegment(std::string_view segment, bool is_begin,
                                     Encoding& encoding) const = 0;

  const std::vector<std::string>& bytes() const { return bytes_; }

  // Set while a tokenizer is made.
  PairMerger merger_;
  TokenCountBound bound_;

 private:
  absl::Status CheckBeginAndEnd() const;
  absl::StatusOr<std::vector<TokenId>> EncodeText(std::string_view text,
                                                  const AddedTokens& added,
                                                  bool is_begin,
                                                  int64_t max_tokens) const;

  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_;       // by id
  std::optional<TokenId> begin_token_;
  bool prompts_begin_ = false;
  std::vector<TokenId> end_tokens_;
  AddedTokens user_defined_;
  AddedTokens user_defined_and_special_;
};

}  // namespace sparseserve
