#include "engine/tokenizer/chat_rules.h"

#include <string>

#include "engine/base/str_cat.h"
#include "engine/tokenizer/turn_writer.h"
#include "engine/tokenizer/utf8.h"

namespace sparseserve {

absl::Status CheckMessages(absl::Span<const ChatMessage> messages) {
  if (messages.empty()) {
    return absl::InvalidArgumentError("there are no messages");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != kSystemRole && role != kUserRole && role != kAssistantRole) {
      return absl::InvalidArgumentError(
          StrCat("message ", i, " has a role other than ", kSystemRole, ", ",
                 kUserRole, " and ", kAssistantRole));
    }
    if (const auto invalid = FindInvalidUtf8(messages[i].content)) {
      return absl::InvalidArgumentError(StrCat(
          "message ", i, ": content is not valid UTF-8 at byte ", *invalid));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAlternation(absl::Span<const ChatMessage> messages,
                              size_t first) {
  for (size_t i = first; i < messages.size(); ++i) {
    const std::string_view due =
        (i - first) % 2 == 0 ? kUserRole : kAssistantRole;
    if (messages[i].role == due) continue;
    return absl::InvalidArgumentError(StrCat(
        "message ", i, " has the role ", messages[i].role,
        ", but this model's chats take a message of the ", due, " there"));
  }
  if (messages.size() <= first || messages.back().role != kUserRole) {
    return absl::InvalidArgumentError(
        StrCat("message ", messages.size() - 1,
               " is the last, which in this model's chats is the user's"));
  }
  return absl::OkStatus();
}

absl::Status CheckMarkers(absl::Span<const ChatMessage> messages,
                          const Tokenizer& tokenizer,
                          absl::Span<const std::string_view> markers) {
  for (const std::string_view marker : markers) {
    if (FindSpecialToken(tokenizer, marker).has_value()) continue;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].content.find(marker) == std::string::npos) continue;
      return absl::InvalidArgumentError(
          StrCat("message ", i, ": content has ", marker,
                 " in it, which marks turns in this model's chats"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
