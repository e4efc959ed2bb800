#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/step.h"
#include "engine/tokenizer/chat_template.h"

namespace sparseserve {

// ChatML: each message is "<|im_start|>role\ncontent<|im_end|>\n". Gives the
// token ids that the template's whole text would have, for contents without
// special tokens in them.
class ChatMlTemplate : public ChatTemplate {
 public:
  // `default_system` opens a conversation whose first message is not a system
  // message; nothing does if it is empty.
  // The token of the beginning of a text is written if `writes_begin`.
  explicit ChatMlTemplate(std::string default_system, bool writes_begin = false)
      : default_system_(std::move(default_system)),
        writes_begin_(writes_begin) {}

  // Also INVALID_ARGUMENT: there are no messages, or a content is not valid
  // UTF-8. FAILED_PRECONDITION: the tokenizer lacks ChatML's special tokens.
  using ChatTemplate::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const override;
  std::string_view name() const override { return "chatml"; }

  const std::string& default_system() const { return default_system_; }

 private:
  const std::string default_system_;
  const bool writes_begin_;
};

// The ChatML template that a model file's Jinja source describes; null if it
// is not of that family. The source is read, never executed: its default
// system message is the literal between "<|im_start|>system\n" and
// "<|im_end|>" in one piece of its text, if there is one. INVALID_ARGUMENT if
// that is not UTF-8: every request would fail.
absl::StatusOr<std::unique_ptr<ChatMlTemplate>> RecognizeChatMl(
    std::string_view jinja);

}  // namespace sparseserve
