#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/chat_template.h"

namespace sparseserve::testing {

// "role:content;" for each message.
class FakeChatTemplate : public ChatTemplate {
 public:
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const override {
    std::string text;
    for (const ChatMessage& message : messages) {
      text += message.role + ":" + message.content + ";";
    }
    return tokenizer.Encode(text, /*parse_special=*/false, max_tokens);
  }
  std::string_view name() const override { return "fake"; }
};

}  // namespace sparseserve::testing
