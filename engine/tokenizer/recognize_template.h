#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/tokenizer/chat_template.h"

namespace sparseserve {

// The known chat template that a model file's Jinja source describes; null if
// none does. The source is read for its literals, never executed.
// INVALID_ARGUMENT if every request would fail.
absl::StatusOr<std::unique_ptr<ChatTemplate>> RecognizeChatTemplate(
    std::string_view jinja);

}  // namespace sparseserve
