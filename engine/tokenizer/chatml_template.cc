#include "engine/tokenizer/chatml_template.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/chat_rules.h"
#include "engine/tokenizer/jinja_literals.h"
#include "engine/tokenizer/turn_writer.h"
#include "engine/tokenizer/utf8.h"

namespace sparseserve {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";

absl::Status WriteTurn(std::string_view role, std::string_view content,
                       TurnWriter& writer) {
  RETURN_IF_ERROR(writer.WriteSpecial(kStart));
  writer.WriteText(StrCat(role, "\n", content));
  RETURN_IF_ERROR(writer.WriteSpecial(kEnd));
  writer.WriteText("\n");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> ChatMlTemplate::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    int64_t max_tokens) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  TurnWriter writer(tokenizer, max_tokens);
  if (writes_begin_) RETURN_IF_ERROR(writer.WriteBegin());
  if (!default_system_.empty() && messages[0].role != kSystemRole) {
    RETURN_IF_ERROR(WriteTurn(kSystemRole, default_system_, writer));
  }
  for (const ChatMessage& message : messages) {
    RETURN_IF_ERROR(WriteTurn(message.role, message.content, writer));
  }
  RETURN_IF_ERROR(writer.WriteSpecial(kStart));
  writer.WriteText(StrCat(kAssistantRole, "\n"));
  return writer.Take();
}

absl::StatusOr<std::unique_ptr<ChatMlTemplate>> RecognizeChatMl(
    std::string_view jinja) {
  const std::string system_opening = StrCat(kStart, kSystemRole, "\n");
  bool starts = false;
  bool ends = false;
  std::string default_system;
  for (const std::string& literal : JinjaLiterals(jinja)) {
    starts |= literal.find(kStart) != std::string::npos;
    ends |= literal.find(kEnd) != std::string::npos;
    const size_t opening = literal.find(system_opening);
    if (opening == std::string::npos || !default_system.empty()) continue;
    const size_t begin = opening + system_opening.size();
    const size_t end = literal.find(kEnd, begin);
    if (end == std::string::npos) continue;
    default_system = literal.substr(begin, end - begin);
  }
  if (!starts || !ends) return nullptr;
  if (const auto invalid = FindInvalidUtf8(default_system)) {
    return absl::InvalidArgumentError(
        StrCat("the chat template's system message is not valid UTF-8 at byte ",
               *invalid));
  }
  return std::make_unique<ChatMlTemplate>(
      std::move(default_system),
      jinja.find("bos_token") != std::string_view::npos);
}

}  // namespace sparseserve
