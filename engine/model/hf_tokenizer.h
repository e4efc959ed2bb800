#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/step.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// The tokenizer that the texts of a tokenizer.json and, unless it is empty, a
// tokenizer_config.json describe. Known are byte-level BPE models with the
// splitting of GPT-2, SmolLM, Llama 3 and Qwen2; a step of another kind is an
// error that names it. End tokens are the configuration's eos_token, special
// tokens that end a text by their meaning, and `more_end_tokens`. Ids that the
// files do not name, and those up to `least_tokens` (the rows of the model's
// matrices), are tokens without bytes. INVALID_ARGUMENT names the value that
// is missing, malformed or not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadHfTokenizer(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json,
    absl::Span<const TokenId> more_end_tokens, size_t least_tokens = 0);

// The chat template of a chat_template.jinja's text or, if that is empty, of
// tokenizer_config.json's chat_template. Either text may be empty. Null if
// there is none, or an unknown one.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadHfChatTemplate(
    std::string_view tokenizer_config_json,
    std::string_view chat_template_jinja);

}  // namespace sparseserve
