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

// Llama 2: "<s>[INST] user [/INST] assistant </s>" again and again, each
// trimmed; a system message goes before the first of the user, between
// "<<SYS>>" and "<</SYS>>". These marks are plain text to the tokenizer.
class Llama2Template : public ChatTemplate {
 public:
  // Also INVALID_ARGUMENT: a system message that is not the first, the others
  // do not alternate, or a content has a mark in it.
  using ChatTemplate::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const override;
  std::string_view name() const override { return "llama2"; }
};

// The template if a model's Jinja source describes it, else null.
std::unique_ptr<Llama2Template> RecognizeLlama2(std::string_view jinja);

}  // namespace sparseserve
