#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/step.h"
#include "engine/tokenizer/chat_template.h"

namespace sparseserve {

// Zephyr and TinyLlama: each message is "<|role|>\ncontent</s>\n". The marks
// of the roles are plain text to the tokenizer.
class ZephyrTemplate : public ChatTemplate {
 public:
  // Also INVALID_ARGUMENT: a content has a mark in it.
  using ChatTemplate::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const override;
  std::string_view name() const override { return "zephyr"; }
};

// The template if a model's Jinja source describes it, else null.
std::unique_ptr<ZephyrTemplate> RecognizeZephyr(std::string_view jinja);

}  // namespace sparseserve
