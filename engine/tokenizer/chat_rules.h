#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

constexpr std::string_view kSystemRole = "system";
constexpr std::string_view kUserRole = "user";
constexpr std::string_view kAssistantRole = "assistant";

// Checks of conversations that chat templates share. Each returns
// INVALID_ARGUMENT that names the first message that is wrong by its index.

// There are messages, of known roles, whose contents are valid UTF-8.
absl::Status CheckMessages(absl::Span<const ChatMessage> messages);

// From `first` on, the user's and the assistant's messages alternate, and the
// user has the first and the last word.
absl::Status CheckAlternation(absl::Span<const ChatMessage> messages,
                              size_t first);

// No content has one of the texts by which the template marks turns, unless
// the vocabulary has it as a special token, which contents never become.
absl::Status CheckMarkers(absl::Span<const ChatMessage> messages,
                          const Tokenizer& tokenizer,
                          absl::Span<const std::string_view> markers);

}  // namespace sparseserve
