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

// Mistral: "<s>[INST] user [/INST]assistant</s>" again and again. The marks are
// plain text to the first tokenizers and special tokens to later ones.
class MistralTemplate : public ChatTemplate {
 public:
  // Where the versions of the template differ.
  struct Form {
    std::string_view before_open;
    std::string_view before_close;
    std::string_view before_answer;
    std::string_view after_end;
    bool trims_answers = false;
    // With which message of the user the system message goes, if there may be
    // one.
    enum class System { kNone, kWithFirst, kWithLast };
    System system = System::kNone;
  };
  explicit MistralTemplate(const Form& form) : form_(form) {}

  // Also INVALID_ARGUMENT: a system message that is not the first or not taken,
  // the others do not alternate, or a content has a mark in it that is plain
  // text.
  using ChatTemplate::Encode;
  absl::StatusOr<std::vector<TokenId>> Encode(
      const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
      int64_t max_tokens) const override;
  std::string_view name() const override { return "mistral"; }

 private:
  const Form form_;
};

// The template if a model's Jinja source describes it, else null.
std::unique_ptr<MistralTemplate> RecognizeMistral(std::string_view jinja);

}  // namespace sparseserve
