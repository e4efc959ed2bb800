#include "engine/tokenizer/chatml_template.h"

#include <optional>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/jinja_literals.h"
#include "engine/tokenizer/utf8.h"

namespace sparseserve {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";
constexpr std::string_view kSystem = "system";
constexpr std::string_view kUser = "user";
constexpr std::string_view kAssistant = "assistant";

absl::StatusOr<TokenId> SpecialToken(const Tokenizer& tokenizer,
                                     std::string_view text) {
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens,
                   tokenizer.Encode(text, /*parse_special=*/true));
  if (tokens.size() != 1 || !tokenizer.IsSpecial(tokens[0])) {
    return absl::FailedPreconditionError(
        StrCat("the vocabulary has no special token ", text));
  }
  return tokens[0];
}

// Appends turns to a prompt.
class TurnWriter {
 public:
  static absl::StatusOr<TurnWriter> Create(const Tokenizer& tokenizer,
                                           int64_t max_tokens) {
    TurnWriter writer(tokenizer, max_tokens);
    ASSIGN_OR_RETURN(writer.start_, SpecialToken(tokenizer, kStart));
    ASSIGN_OR_RETURN(writer.end_, SpecialToken(tokenizer, kEnd));
    return writer;
  }

  absl::Status Open(std::string_view role, std::string_view content) {
    RETURN_IF_ERROR(Append(start_));
    // Encoded together: a content that begins with white space joins the
    // line's end in one word.
    return AppendText(StrCat(role, "\n", content));
  }
  absl::Status Close() {
    RETURN_IF_ERROR(Append(end_));
    return AppendText("\n");
  }
  std::vector<TokenId> Take() { return std::move(tokens_); }

 private:
  TurnWriter(const Tokenizer& tokenizer, int64_t max_tokens)
      : tokenizer_(&tokenizer), max_tokens_(max_tokens) {}

  int64_t room() const {
    return max_tokens_ - static_cast<int64_t>(tokens_.size());
  }
  absl::Status Append(TokenId token) {
    if (room() < 1) {
      return absl::OutOfRangeError(
          StrCat("more than ", max_tokens_, " tokens"));
    }
    tokens_.push_back(token);
    return absl::OkStatus();
  }

  absl::Status AppendText(std::string_view text) {
    ASSIGN_OR_RETURN(const std::vector<TokenId> tokens,
                     tokenizer_->Encode(text, /*parse_special=*/false, room()));
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    return absl::OkStatus();
  }

  const Tokenizer* tokenizer_;
  int64_t max_tokens_;
  TokenId start_ = 0;
  TokenId end_ = 0;
  std::vector<TokenId> tokens_;
};

absl::Status CheckMessages(absl::Span<const ChatMessage> messages) {
  if (messages.empty()) {
    return absl::InvalidArgumentError("there are no messages");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != kSystem && role != kUser && role != kAssistant) {
      return absl::InvalidArgumentError(
          StrCat("message ", i, " has a role other than ", kSystem, ", ", kUser,
                 " and ", kAssistant));
    }
    if (const auto invalid = FindInvalidUtf8(messages[i].content)) {
      return absl::InvalidArgumentError(StrCat(
          "message ", i, ": content is not valid UTF-8 at byte ", *invalid));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> ChatMlTemplate::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    int64_t max_tokens) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  ASSIGN_OR_RETURN(TurnWriter writer,
                   TurnWriter::Create(tokenizer, max_tokens));
  if (!default_system_.empty() && messages[0].role != kSystem) {
    RETURN_IF_ERROR(writer.Open(kSystem, default_system_));
    RETURN_IF_ERROR(writer.Close());
  }
  for (const ChatMessage& message : messages) {
    RETURN_IF_ERROR(writer.Open(message.role, message.content));
    RETURN_IF_ERROR(writer.Close());
  }
  RETURN_IF_ERROR(writer.Open(kAssistant, ""));
  return writer.Take();
}

absl::StatusOr<std::unique_ptr<ChatMlTemplate>> RecognizeChatMl(
    std::string_view jinja) {
  const std::string system_opening = StrCat(kStart, kSystem, "\n");
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
  return std::make_unique<ChatMlTemplate>(std::move(default_system));
}

}  // namespace sparseserve
