#include "engine/tokenizer/recognize_template.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "engine/tokenizer/chatml_template.h"
#include "engine/tokenizer/gemma_template.h"
#include "engine/tokenizer/llama2_template.h"
#include "engine/tokenizer/llama3_template.h"
#include "engine/tokenizer/mistral_template.h"
#include "engine/tokenizer/zephyr_template.h"

namespace sparseserve {

absl::StatusOr<std::unique_ptr<ChatTemplate>> RecognizeChatTemplate(
    std::string_view jinja) {
  ASSIGN_OR_RETURN(std::unique_ptr<ChatTemplate> chat, RecognizeChatMl(jinja));
  if (chat == nullptr) chat = RecognizeLlama3(jinja);
  if (chat == nullptr) chat = RecognizeGemma(jinja);
  if (chat == nullptr) chat = RecognizeZephyr(jinja);
  if (chat == nullptr) chat = RecognizeLlama2(jinja);
  if (chat == nullptr) chat = RecognizeMistral(jinja);
  return chat;
}

}  // namespace sparseserve
