#include "engine/tokenizer/mistral_template.h"

#include <string>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/chat_rules.h"
#include "engine/tokenizer/jinja_literals.h"
#include "engine/tokenizer/turn_writer.h"
#include "engine/tokenizer/white_space.h"

namespace sparseserve {
namespace {

using Form = MistralTemplate::Form;

constexpr std::string_view kOpen = "[INST]";
constexpr std::string_view kClose = "[/INST]";
constexpr std::string_view kMarkers[] = {kOpen, kClose};

// Of the first 7B Instruct models, of 0.2's first template, of both since they
// take a system message, and of 0.3.
constexpr Form kFirst = {.before_close = " ", .after_end = " "};
constexpr Form kSecond = {.before_close = " "};
constexpr Form kSpaced = {.before_open = " ",
                          .before_close = " ",
                          .before_answer = " ",
                          .system = Form::System::kWithFirst};
constexpr Form kThird = {.before_answer = " ",
                         .system = Form::System::kWithLast};

}  // namespace

absl::StatusOr<std::vector<TokenId>> MistralTemplate::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    int64_t max_tokens) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  const bool has_system =
      form_.system != Form::System::kNone && messages[0].role == kSystemRole;
  RETURN_IF_ERROR(CheckAlternation(messages, has_system ? 1 : 0));
  RETURN_IF_ERROR(CheckMarkers(messages, tokenizer, kMarkers));
  std::string system;
  if (has_system) {
    system = StrCat(messages[0].content, "\n\n");
    messages.remove_prefix(1);
  }
  const size_t with_system =
      form_.system == Form::System::kWithLast ? messages.size() - 1 : 0;
  TurnWriter writer(tokenizer, max_tokens);
  RETURN_IF_ERROR(writer.WriteBegin());
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& content = messages[i].content;
    if (messages[i].role == kUserRole) {
      writer.WriteText(form_.before_open);
      RETURN_IF_ERROR(writer.WriteMarker(kOpen));
      writer.WriteText(StrCat(" ", i == with_system ? system : "", content,
                              form_.before_close));
      RETURN_IF_ERROR(writer.WriteMarker(kClose));
    } else {
      writer.WriteText(form_.before_answer);
      writer.WriteText(form_.trims_answers ? TrimWhiteSpace(content)
                                           : std::string_view(content));
      RETURN_IF_ERROR(writer.WriteEnd());
      writer.WriteText(form_.after_end);
    }
  }
  return writer.Take();
}

std::unique_ptr<MistralTemplate> RecognizeMistral(std::string_view jinja) {
  const JinjaLiteralSet literals(jinja);
  for (const char* name : {"bos_token", "eos_token"}) {
    if (jinja.find(name) == std::string_view::npos) return nullptr;
  }
  if (literals.HasPiece("<<SYS>>")) return nullptr;
  const bool says_system = literals.Has("\n\n");
  const Form* form = nullptr;
  if (literals.Has(" [INST] ") && literals.Has(" [/INST]")) {
    form = says_system ? &kSpaced : nullptr;
  } else if (literals.Has("[INST] ") && literals.Has(" [/INST]")) {
    form = literals.Has(" ") ? &kFirst : &kSecond;
    if (says_system) form = nullptr;
  } else if (literals.Has("[INST] ") && literals.Has("[/INST]")) {
    form = says_system ? &kThird : nullptr;
  }
  if (form == nullptr) return nullptr;
  Form read = *form;
  read.trims_answers = jinja.find("trim") != std::string_view::npos;
  return std::make_unique<MistralTemplate>(read);
}

}  // namespace sparseserve
