#include "client/tool/run_flags.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/tool/attention_flag.h"
#include "client/tool/prompt.h"

namespace sparseserve {

std::vector<Flag> RunFlags::PromptFlags() {
  return {
      {"chat", "", "take the prompt as a user's message", &chat_},
      {"system", "TEXT", "system message; implies --chat", &system_},
      {"file", "PATH", "read the prompt from a file; - is standard input",
       &file_},
      {"model", "NAME", "models/NAME; needed if the server has several",
       &model_},
  };
}

std::vector<Flag> RunFlags::AttentionFlags() {
  return {
      {"attention", "CHOICE",
       absl::StrCat("a plan's name or a pattern, as `sparseserve models`\n"
                    "lists them; a pattern may have parameters:\n",
                    DescribePatterns()),
       &attention_},
      {"plan", "NAME", "attention plan by its name", &plan_},
  };
}

absl::Status RunFlags::Fill(const std::vector<std::string>& arguments,
                            v1::GenerateOptions& options) const {
  auto prompt = ReadPrompt(arguments, file_);
  if (!prompt.ok()) return prompt.status();
  SetPrompt(*std::move(prompt), options);
  return SetAttention(options);
}

void RunFlags::SetPrompt(std::string prompt,
                         v1::GenerateOptions& options) const {
  options.set_model(model_);
  if (!chat_ && system_.empty()) {
    options.set_text(std::move(prompt));
    return;
  }
  const auto add = [&options](absl::string_view role, std::string content) {
    v1::ChatMessage* message = options.mutable_chat()->add_messages();
    message->set_role(std::string(role));
    message->set_content(std::move(content));
  };
  if (!system_.empty()) add("system", system_);
  add("user", std::move(prompt));
}

absl::Status RunFlags::SetAttention(v1::GenerateOptions& options) const {
  if (!plan_.empty() && !attention_.empty()) {
    return absl::InvalidArgumentError(
        "flags --attention and --plan choose twice");
  }
  if (!plan_.empty()) options.mutable_attention()->set_plan(plan_);
  if (attention_.empty()) return absl::OkStatus();
  auto choice = ParseAttention(attention_);
  if (!choice.ok()) return choice.status();
  *options.mutable_attention() = *std::move(choice);
  return absl::OkStatus();
}

}  // namespace sparseserve
