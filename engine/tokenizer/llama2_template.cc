#include "engine/tokenizer/llama2_template.h"

#include <string>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/chat_rules.h"
#include "engine/tokenizer/jinja_literals.h"
#include "engine/tokenizer/turn_writer.h"
#include "engine/tokenizer/white_space.h"

namespace sparseserve {
namespace {

constexpr std::string_view kMarkers[] = {"[INST]", "[/INST]", "<<SYS>>",
                                         "<</SYS>>"};
// Literals of the template, whole.
constexpr std::string_view kOpen = "[INST] ";
constexpr std::string_view kClose = " [/INST]";
constexpr std::string_view kOpenSystem = "<<SYS>>\n";
constexpr std::string_view kCloseSystem = "\n<</SYS>>\n\n";

}  // namespace

absl::StatusOr<std::vector<TokenId>> Llama2Template::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    int64_t max_tokens) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  const bool has_system = messages[0].role == kSystemRole;
  RETURN_IF_ERROR(CheckAlternation(messages, has_system ? 1 : 0));
  RETURN_IF_ERROR(CheckMarkers(messages, tokenizer, kMarkers));
  std::string system;
  if (has_system) {
    system = StrCat(kOpenSystem, messages[0].content, kCloseSystem);
    messages.remove_prefix(1);
  }
  TurnWriter writer(tokenizer, max_tokens);
  for (const ChatMessage& message : messages) {
    if (message.role == kUserRole) {
      RETURN_IF_ERROR(writer.WriteBegin());
      writer.WriteText(kOpen);
      // Trimmed together: a system message keeps the space before its user's.
      writer.WriteText(TrimWhiteSpace(StrCat(system, message.content)));
      writer.WriteText(kClose);
      system.clear();
    } else {
      writer.WriteText(StrCat(" ", TrimWhiteSpace(message.content), " "));
      RETURN_IF_ERROR(writer.WriteEnd());
    }
  }
  return writer.Take();
}

std::unique_ptr<Llama2Template> RecognizeLlama2(std::string_view jinja) {
  const JinjaLiteralSet literals(jinja);
  for (const std::string_view literal :
       {kOpen, kClose, kOpenSystem, kCloseSystem}) {
    if (!literals.Has(literal)) return nullptr;
  }
  return std::make_unique<Llama2Template>();
}

}  // namespace sparseserve
