#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

struct ChatMessage {
  std::string role;     // "system", "user" or "assistant"
  std::string content;  // UTF-8
};

// Turns messages into the prompt that a chat model was trained on. The known
// templates are code; no template language from a model file is executed.
// Immutable; any thread may call it.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // Ends with the opening of the assistant's turn. Contents are encoded
  // without special tokens, and may not have the marks of turns that are plain
  // text, so they cannot forge a turn. INVALID_ARGUMENT names the index of a
  // message whose role is unknown or not taken there, or whose content is not;
  // OUT_OF_RANGE as Tokenizer's.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const = 0;
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer,
      absl::Span<const ChatMessage> messages) const {
    return Encode(tokenizer, messages, std::numeric_limits<int64_t>::max());
  }
  virtual std::string_view name() const = 0;
};

}  // namespace sparseserve
