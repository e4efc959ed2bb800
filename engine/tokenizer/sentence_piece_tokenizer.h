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
#include "engine/tokenizer/vocabulary_tokenizer.h"

namespace sparseserve {

// Where a space is put before text that begins without one.
struct SpacePrefix {
  enum class Where {
    kNowhere,
    kTextStart,         // where the whole text begins, if no added token does
    kAfterAddedTokens,  // there, and after every added token
  };
  Where where = Where::kNowhere;
  // Also before text that begins with a space.
  bool always = true;
};

// A vocabulary of SentencePiece's BPE models. Spaces are U+2581 in tokens and
// merges, but for literals, and byte tokens are "<0x00>" to "<0xFF>".
struct SentencePieceVocabulary : Vocabulary {
  // By id; empty where there are merges. Of all pairs that together are a
  // token, that of the highest score is merged first.
  std::vector<float> scores;
  SpacePrefix prefix;
  // Decoded text loses the space that encoding put before it.
  bool drops_first_space = false;
};

// SentencePiece's byte-pair encoding, as in Llama 2, Mistral and Gemma: spaces
// become U+2581, and the characters of all text between added tokens are merged
// at once, across words. A character without a token is its bytes. Encoding n
// bytes takes O(n log n).
class SentencePieceTokenizer : public VocabularyTokenizer {
 public:
  // Longest token that merges can make: bounds the work of finding the pairs.
  static constexpr size_t kMaxTokenBytes = 512;

  // INVALID_ARGUMENT names what is wrong: sizes that differ, a repeated token,
  // a byte without token, a score that is not finite, a merge that is repeated
  // or whose parts or result are no ordinary tokens, a begin or end token out
  // of range.
  static absl::StatusOr<std::unique_ptr<SentencePieceTokenizer>> Create(
      const SentencePieceVocabulary& vocabulary);

  // The byte that a token's text names, if it names one.
  static std::optional<int> ByteOf(std::string_view token);
  // A token's text with spaces for the marks.
  static std::string MarksToSpaces(std::string_view token);

  bool drops_first_space() const override { return drops_first_space_; }

 private:
  SentencePieceTokenizer(SpacePrefix prefix, bool drops_first_space)
      : prefix_(prefix), drops_first_space_(drops_first_space) {}

  absl::Status SetBytes(const SentencePieceVocabulary& vocabulary,
                        const TokenIndex& index);
  void SetCharacters(const SentencePieceVocabulary& vocabulary);
  absl::Status SetScores(const SentencePieceVocabulary& vocabulary,
                         const TokenIndex& index);

  absl::Status EncodeSegment(std::string_view segment, bool is_begin,
                             Encoding& encoding) const override;
  // The segment with its spaces marked, prefixed as it has to be.
  std::string Mark(std::string_view segment, bool is_begin) const;

  const SpacePrefix prefix_;
  const bool drops_first_space_;
  std::array<TokenId, 256> byte_tokens_ = {};
  // Tokens of one character, by its bytes in one number.
  absl::flat_hash_map<uint32_t, TokenId> characters_;
};

}  // namespace sparseserve
