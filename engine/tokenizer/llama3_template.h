#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/step.h"
#include "engine/tokenizer/chat_template.h"

namespace sparseserve {

// Llama 3: "<|begin_of_text|>", then each message as "<|start_header_id|>role
// <|end_header_id|>\n\ncontent<|eot_id|>", its content trimmed.
class Llama3Template : public ChatTemplate {
 public:
  // `preamble` opens the system message, which then is always there; without
  // one there is a system message only if callers send it.
  explicit Llama3Template(std::string preamble)
      : preamble_(std::move(preamble)) {}

  // FAILED_PRECONDITION: the tokenizer lacks one of the special tokens.
  using ChatTemplate::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const override;
  std::string_view name() const override { return "llama3"; }

 private:
  const std::string preamble_;
};

// The template if a model's Jinja source describes it, else null. Llama 3.1 and
// later say when the model's knowledge ends and what day it is; the day is the
// one that stands in the source, for the engine knows no date.
std::unique_ptr<Llama3Template> RecognizeLlama3(std::string_view jinja);

}  // namespace sparseserve
