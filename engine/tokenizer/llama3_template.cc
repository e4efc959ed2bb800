#include "engine/tokenizer/llama3_template.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/chat_rules.h"
#include "engine/tokenizer/jinja_literals.h"
#include "engine/tokenizer/turn_writer.h"
#include "engine/tokenizer/white_space.h"

namespace sparseserve {
namespace {

constexpr std::string_view kStartHeader = "<|start_header_id|>";
constexpr std::string_view kEndHeader = "<|end_header_id|>";
constexpr std::string_view kEndTurn = "<|eot_id|>";
constexpr std::string_view kKnowledge = "Cutting Knowledge Date: ";
constexpr std::string_view kToday = "Today Date: ";

absl::Status WriteHeader(std::string_view role, TurnWriter& writer) {
  RETURN_IF_ERROR(writer.WriteSpecial(kStartHeader));
  writer.WriteText(role);
  RETURN_IF_ERROR(writer.WriteSpecial(kEndHeader));
  writer.WriteText("\n\n");
  return absl::OkStatus();
}

absl::Status WriteTurn(std::string_view role, std::string_view preamble,
                       std::string_view content, TurnWriter& writer) {
  RETURN_IF_ERROR(WriteHeader(role, writer));
  writer.WriteText(preamble);
  writer.WriteText(TrimWhiteSpace(content));
  return writer.WriteSpecial(kEndTurn);
}

// Like "26 Jul 2024".
bool IsDate(std::string_view text) {
  constexpr std::string_view kForm = "00 Aaa 0000";
  const auto fits = [](char c, char form) {
    if (form == '0') return absl::ascii_isdigit(c);
    if (form == ' ') return c == ' ';
    return absl::ascii_isalpha(c);
  };
  return text.size() == kForm.size() &&
         std::equal(text.begin(), text.end(), kForm.begin(), fits);
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> Llama3Template::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    int64_t max_tokens) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  TurnWriter writer(tokenizer, max_tokens);
  RETURN_IF_ERROR(writer.WriteBegin());
  if (!preamble_.empty()) {
    const bool has_system = messages[0].role == kSystemRole;
    RETURN_IF_ERROR(WriteTurn(kSystemRole, preamble_,
                              has_system ? messages[0].content : "", writer));
    if (has_system) messages.remove_prefix(1);
  }
  for (const ChatMessage& message : messages) {
    RETURN_IF_ERROR(WriteTurn(message.role, "", message.content, writer));
  }
  RETURN_IF_ERROR(WriteHeader(kAssistantRole, writer));
  return writer.Take();
}

std::unique_ptr<Llama3Template> RecognizeLlama3(std::string_view jinja) {
  bool has_header = false;
  bool has_end = false;
  std::string knowledge;
  std::string date;
  for (const std::string& literal : JinjaLiterals(jinja)) {
    has_header |= literal.find(kStartHeader) != std::string::npos;
    has_end |= literal.find(kEndTurn) != std::string::npos;
    if (literal.compare(0, kKnowledge.size(), kKnowledge) == 0) {
      knowledge = literal;
    }
    if (IsDate(literal)) date = literal;
  }
  if (!has_header || !has_end) return nullptr;
  if (knowledge.empty()) return std::make_unique<Llama3Template>("");
  if (date.empty()) return nullptr;
  return std::make_unique<Llama3Template>(
      StrCat(knowledge, kToday, date, "\n\n"));
}

}  // namespace sparseserve
