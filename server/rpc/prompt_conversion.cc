#include "server/rpc/prompt_conversion.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/rpc/request_limits.h"
#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

constexpr std::string_view kModelPrefix = "models/";

void CheckChat(std::string_view field, const v1::ChatMessages& chat,
               const ServedModel& model, FieldErrors& errors) {
  if (model.chat_template == nullptr) {
    errors.Add(field, "",
               StrCat("text or token_ids: ", model.name,
                      " has no known chat template"));
    return;
  }
  if (chat.messages_size() < 1 || chat.messages_size() > kMaxMessages) {
    errors.Add(StrCat(field, ".messages"),
               StrCat(chat.messages_size(), " messages"),
               StrCat("from 1 to ", kMaxMessages, " messages"));
    return;
  }
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    const std::string path = StrCat(field, ".messages[", i, "]");
    if (message.role() != "system" && message.role() != "user" &&
        message.role() != "assistant") {
      errors.Add(StrCat(path, ".role"), StrCat("\"", message.role(), "\""),
                 "\"system\", \"user\" or \"assistant\"");
    }
    if (message.content().empty()) {
      errors.Add(StrCat(path, ".content"), "", "given");
    }
  }
}

absl::StatusOr<size_t> FittingBytes(std::string_view field, size_t bytes,
                                    const ServedModel& model) {
  if (bytes <= model.max_prompt_bytes) return bytes;
  return PromptTooLong(field, bytes, model.max_prompt_bytes, "bytes");
}

size_t ContentBytes(const v1::ChatMessages& chat) {
  size_t bytes = 0;
  for (const v1::ChatMessage& message : chat.messages()) {
    bytes += message.content().size();
  }
  return bytes;
}

// Names the field where the template does not take the conversation.
absl::StatusOr<std::vector<TokenId>> EncodeChat(std::string_view field,
                                                const v1::ChatMessages& chat,
                                                const ServedModel& model,
                                                int64_t max_tokens) {
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& message : chat.messages()) {
    messages.push_back({message.role(), message.content()});
  }
  auto tokens =
      model.chat_template->Encode(model.tokenizer, messages, max_tokens);
  if (!absl::IsInvalidArgument(tokens.status())) return tokens;
  FieldErrors errors;
  errors.Add(StrCat(field, ".messages"), "",
             StrCat("a conversation that the model's template takes: ",
                    std::string(tokens.status().message())));
  return errors.ToStatus();
}

// Says what stopped an encoding at the limit.
absl::StatusOr<std::vector<TokenId>> WithinLimit(
    std::string_view field, absl::StatusOr<std::vector<TokenId>> tokens,
    int limit) {
  if (!absl::IsOutOfRange(tokens.status())) return tokens;
  return PromptTooLong(field, std::nullopt, limit, "tokens");
}

}  // namespace

absl::Status CheckModelName(std::string_view field, const std::string& name,
                            const ServedModel& model, bool may_be_empty) {
  if (name == model.name || (name.empty() && may_be_empty)) {
    return absl::OkStatus();
  }
  if (name.size() > kModelPrefix.size() &&
      name.compare(0, kModelPrefix.size(), kModelPrefix) == 0) {
    return ModelNotFound(name);
  }
  FieldErrors errors;
  errors.Add(field, StrCat("\"", name, "\""), "of the form models/{model}");
  return errors.ToStatus();
}

void CheckTokenIds(std::string_view field,
                   const google::protobuf::RepeatedField<int32_t>& ids,
                   const ServedModel& model, FieldErrors& errors) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < model.info.vocab_size) continue;
    errors.CheckRange(StrCat(field, "[", i, "]"), int64_t{ids[i]}, 0,
                      model.info.vocab_size - 1);
  }
}

void CheckPrompt(const v1::GenerateOptions& options, const ServedModel& model,
                 FieldErrors& errors) {
  switch (options.prompt_case()) {
    case v1::GenerateOptions::kText:
      if (options.text().empty()) {
        errors.Add("options.text", "", "given");
      }
      break;
    case v1::GenerateOptions::kChat:
      CheckChat("options.chat", options.chat(), model, errors);
      break;
    case v1::GenerateOptions::kTokenIds:
      if (options.token_ids().ids_size() == 0) {
        errors.Add("options.token_ids.ids", "", "given");
      }
      CheckTokenIds("options.token_ids.ids", options.token_ids().ids(), model,
                    errors);
      break;
    case v1::GenerateOptions::PROMPT_NOT_SET:
      errors.Add("options.prompt", "", "text, chat or token_ids");
  }
}

absl::StatusOr<size_t> PromptBytes(const v1::GenerateOptions& options,
                                   const ServedModel& model) {
  switch (options.prompt_case()) {
    case v1::GenerateOptions::kText:
      return FittingBytes("options.text", options.text().size(), model);
    case v1::GenerateOptions::kChat:
      return FittingBytes("options.chat", ContentBytes(options.chat()), model);
    default:
      return 0;
  }
}

absl::StatusOr<std::vector<TokenId>> EncodePrompt(
    const v1::GenerateOptions& options, const ServedModel& model) {
  RETURN_IF_ERROR(PromptBytes(options, model).status());
  switch (options.prompt_case()) {
    case v1::GenerateOptions::kText:
      return WithinLimit(
          "options.text",
          model.tokenizer.EncodePrompt(options.text(), /*parse_special=*/false,
                                       model.max_prompt_tokens),
          model.max_prompt_tokens);
    case v1::GenerateOptions::kChat:
      return WithinLimit("options.chat",
                         EncodeChat("options.chat", options.chat(), model,
                                    model.max_prompt_tokens),
                         model.max_prompt_tokens);
    default: {
      const auto& ids = options.token_ids().ids();
      if (ids.size() > model.max_prompt_tokens) {
        return PromptTooLong("options.token_ids.ids", ids.size(),
                             model.max_prompt_tokens, "tokens");
      }
      return std::vector<TokenId>(ids.begin(), ids.end());
    }
  }
}

absl::Status SetPrompt(std::vector<TokenId> prompt, const ServedModel& model,
                       Request& request) {
  const int tokens = static_cast<int>(prompt.size());
  if (tokens == 0) {
    FieldErrors errors;
    errors.Add("options.prompt", "", "at least one token");
    return errors.ToStatus();
  }
  if (tokens > model.max_prompt_tokens) {
    return PromptTooLong("options.prompt", tokens, model.max_prompt_tokens,
                         "tokens");
  }
  if (!request.attention.traits.is_selection_causal &&
      tokens > model.max_step_tokens) {
    return PatternUnsupported(
        ChoiceName(request.attention.choice), model.name,
        StrCat("it runs a prompt in one step, which holds ",
               model.max_step_tokens, " tokens, and the prompt has ", tokens));
  }
  const int room = model.max_request_tokens - tokens;
  if (request.max_output_tokens == 0) {
    request.max_output_tokens = std::min(model.default_max_output_tokens, room);
  }
  FieldErrors errors;
  if (request.max_output_tokens > room) {
    errors.Add("options.stop.max_output_tokens",
               StrCat(request.max_output_tokens),
               StrCat("at most ", room, ", what the prompt's ", tokens,
                      " tokens leave of the context"));
  }
  if (request.min_output_tokens > std::min(request.max_output_tokens, room)) {
    errors.CheckRange("options.stop.min_output_tokens",
                      int64_t{request.min_output_tokens}, 0,
                      std::min(request.max_output_tokens, room));
  }
  RETURN_IF_ERROR(errors.ToStatus());
  request.prompt = std::move(prompt);
  return absl::OkStatus();
}

absl::StatusOr<size_t> CheckInput(const v1::TokenizeRequest& request,
                                  const ServedModel& model) {
  RETURN_IF_ERROR(CheckModelName("model", request.model(), model,
                                 /*may_be_empty=*/true));
  FieldErrors errors;
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText:
      return FittingBytes("text", request.text().size(), model);
    case v1::TokenizeRequest::kChat:
      if (request.parse_special()) {
        errors.Add("parse_special", "true",
                   "false with chat: contents are plain text");
      }
      CheckChat("chat", request.chat(), model, errors);
      RETURN_IF_ERROR(errors.ToStatus());
      return FittingBytes("chat", ContentBytes(request.chat()), model);
    case v1::TokenizeRequest::INPUT_NOT_SET:
      errors.Add("input", "", "text or chat");
  }
  return errors.ToStatus();
}

int MaxTokenizedTokens(const ServedModel& model) {
  return std::max(model.info.context_tokens, kMaxTokenizedTokens);
}

absl::StatusOr<std::vector<TokenId>> EncodeInput(
    const v1::TokenizeRequest& request, const ServedModel& model) {
  const int limit = MaxTokenizedTokens(model);
  if (request.has_chat()) {
    return WithinLimit("chat", EncodeChat("chat", request.chat(), model, limit),
                       limit);
  }
  return WithinLimit("text",
                     model.tokenizer.EncodePrompt(
                         request.text(), request.parse_special(), limit),
                     limit);
}

absl::StatusOr<std::string> DecodeTokens(const v1::DetokenizeRequest& request,
                                         const ServedModel& model) {
  RETURN_IF_ERROR(CheckModelName("model", request.model(), model,
                                 /*may_be_empty=*/true));
  FieldErrors errors;
  if (request.token_ids_size() < 1 ||
      request.token_ids_size() > model.info.context_tokens) {
    errors.Add("token_ids", StrCat(request.token_ids_size(), " ids"),
               StrCat("from 1 to ", model.info.context_tokens, " ids"));
  }
  CheckTokenIds("token_ids", request.token_ids(), model, errors);
  RETURN_IF_ERROR(errors.ToStatus());
  return model.tokenizer.Decode(request.token_ids());
}

}  // namespace sparseserve
