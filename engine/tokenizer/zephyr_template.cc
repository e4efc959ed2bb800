#include "engine/tokenizer/zephyr_template.h"

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tokenizer/chat_rules.h"
#include "engine/tokenizer/jinja_literals.h"
#include "engine/tokenizer/turn_writer.h"

namespace sparseserve {
namespace {

constexpr std::string_view kMarkers[] = {"<|system|>", "<|user|>",
                                         "<|assistant|>"};

}  // namespace

absl::StatusOr<std::vector<TokenId>> ZephyrTemplate::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    int64_t max_tokens) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  RETURN_IF_ERROR(CheckMarkers(messages, tokenizer, kMarkers));
  TurnWriter writer(tokenizer, max_tokens);
  for (const ChatMessage& message : messages) {
    RETURN_IF_ERROR(writer.WriteMarker(StrCat("<|", message.role, "|>")));
    writer.WriteText(StrCat("\n", message.content));
    RETURN_IF_ERROR(writer.WriteEnd());
    writer.WriteText("\n");
  }
  RETURN_IF_ERROR(writer.WriteMarker("<|assistant|>"));
  writer.WriteText("\n");
  return writer.Take();
}

std::unique_ptr<ZephyrTemplate> RecognizeZephyr(std::string_view jinja) {
  const JinjaLiteralSet literals(jinja);
  // Phi-3's has the same openings, but an end of turn of its own.
  if (!literals.Has("<|system|>\n") || !literals.Has("<|user|>\n") ||
      !literals.Has("<|assistant|>\n") || !literals.Has("<|assistant|>") ||
      literals.HasPiece("<|end|>") ||
      jinja.find("eos_token") == std::string_view::npos) {
    return nullptr;
  }
  return std::make_unique<ZephyrTemplate>();
}

}  // namespace sparseserve
