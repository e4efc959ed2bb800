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

// Gemma: "<bos>", then each message as "<start_of_turn>role\ncontent
// <end_of_turn>\n", trimmed, where the assistant is called "model".
class GemmaTemplate : public ChatTemplate {
 public:
  // Gemma 3 puts a system message before the first of the user; the models
  // before it take none.
  explicit GemmaTemplate(bool takes_system) : takes_system_(takes_system) {}

  // Also INVALID_ARGUMENT: a system message that is not the first or not taken,
  // or the others do not alternate. FAILED_PRECONDITION: the tokenizer lacks
  // one of the special tokens.
  using ChatTemplate::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const override;
  std::string_view name() const override { return "gemma"; }

 private:
  const bool takes_system_;
};

// The template if a model's Jinja source describes it, else null.
std::unique_ptr<GemmaTemplate> RecognizeGemma(std::string_view jinja);

}  // namespace sparseserve
