#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step.h"

namespace sparseserve {

// Text to token ids and back. Immutable; any thread may call it.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // `text` must be valid UTF-8 (INVALID_ARGUMENT names the byte offset if
  // not). With `parse_special`, the model's special tokens in `text` become
  // their ids; without, they are ordinary text: a caller's prompt cannot forge
  // a turn. OUT_OF_RANGE, without the work of encoding the rest, as soon as it
  // is known that there are more than `max_tokens`.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(
      std::string_view text, bool parse_special, int64_t max_tokens) const = 0;
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              bool parse_special) const {
    return Encode(text, parse_special, std::numeric_limits<int64_t>::max());
  }

  // The same for a prompt that is plain text: the begin token goes before it if
  // prompts_begin(), and counts.
  absl::StatusOr<std::vector<TokenId>> EncodePrompt(std::string_view text,
                                                    bool parse_special,
                                                    int64_t max_tokens) const;

  // The bytes of one token; not necessarily whole UTF-8 characters. Special
  // tokens have their literal text. REQUIRES: 0 <= token < vocab_size().
  virtual std::string_view TokenBytes(TokenId token) const = 0;
  // Special (control) tokens are not shown in generated text.
  virtual bool IsSpecial(TokenId token) const = 0;

  virtual int vocab_size() const = 0;
  // The token of the beginning of a text, if the model has one. Chat templates
  // write it themselves.
  virtual std::optional<TokenId> begin_token() const { return std::nullopt; }
  // Whether prompts of plain text begin with it.
  virtual bool prompts_begin() const { return false; }
  // Tokens that end a generation (end of text, end of turn).
  virtual const std::vector<TokenId>& end_tokens() const = 0;
};

}  // namespace sparseserve
