#include "engine/tokenizer/gemma_template.h"

#include <string>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/chat_rules.h"
#include "engine/tokenizer/jinja_literals.h"
#include "engine/tokenizer/turn_writer.h"
#include "engine/tokenizer/white_space.h"

namespace sparseserve {
namespace {

constexpr std::string_view kStart = "<start_of_turn>";
constexpr std::string_view kEnd = "<end_of_turn>";

}  // namespace

absl::StatusOr<std::vector<TokenId>> GemmaTemplate::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    int64_t max_tokens) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  const bool has_system = takes_system_ && messages[0].role == kSystemRole;
  RETURN_IF_ERROR(CheckAlternation(messages, has_system ? 1 : 0));
  std::string system;
  if (has_system) {
    system = StrCat(messages[0].content, "\n\n");
    messages.remove_prefix(1);
  }
  TurnWriter writer(tokenizer, max_tokens);
  RETURN_IF_ERROR(writer.WriteBegin());
  for (const ChatMessage& message : messages) {
    RETURN_IF_ERROR(writer.WriteSpecial(kStart));
    writer.WriteText(message.role == kUserRole ? "user\n" : "model\n");
    writer.WriteText(system);
    writer.WriteText(TrimWhiteSpace(message.content));
    RETURN_IF_ERROR(writer.WriteSpecial(kEnd));
    writer.WriteText("\n");
    system.clear();
  }
  RETURN_IF_ERROR(writer.WriteSpecial(kStart));
  writer.WriteText("model\n");
  return writer.Take();
}

std::unique_ptr<GemmaTemplate> RecognizeGemma(std::string_view jinja) {
  const JinjaLiteralSet literals(jinja);
  if (!literals.HasPiece(kStart) || !literals.HasPiece(kEnd) ||
      !literals.HasPiece("model")) {
    return nullptr;
  }
  return std::make_unique<GemmaTemplate>(
      /*takes_system=*/!literals.Has("System role not supported") &&
      literals.Has("\n\n"));
}

}  // namespace sparseserve
