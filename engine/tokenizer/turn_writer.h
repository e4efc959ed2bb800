#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// Writes the tokens of a prompt for a chat template: those that the prompt's
// whole text would have, but that callers' texts make no special tokens. One
// prompt, one thread. All functions return OUT_OF_RANGE once there are more
// than `max_tokens`.
class TurnWriter {
 public:
  // Borrows the tokenizer.
  TurnWriter(const Tokenizer& tokenizer, int64_t max_tokens)
      : tokenizer_(tokenizer), max_tokens_(max_tokens) {}

  // The token of the beginning of a text, if the model has one.
  absl::Status WriteBegin();
  // The model's end token, which templates call eos_token.
  // FAILED_PRECONDITION if it has none.
  absl::Status WriteEnd();
  // A special token by its text. FAILED_PRECONDITION if there is none.
  absl::Status WriteSpecial(std::string_view text);
  // A special token by its text, the text itself if there is none.
  absl::Status WriteMarker(std::string_view text);
  // Text that is encoded together with the text before and after it.
  void WriteText(std::string_view text) { text_.append(text); }

  // The prompt. Nothing may be written after it.
  absl::StatusOr<std::vector<TokenId>> Take();

 private:
  absl::Status Write(TokenId token);
  // Encodes the text since the last token.
  absl::Status Flush();

  const Tokenizer& tokenizer_;
  const int64_t max_tokens_;
  std::string text_;
  std::vector<TokenId> tokens_;
};

// The special token with this text, none if the vocabulary has no such.
std::optional<TokenId> FindSpecialToken(const Tokenizer& tokenizer,
                                        std::string_view text);

}  // namespace sparseserve
