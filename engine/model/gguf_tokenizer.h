#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/gguf_metadata.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// The tokenizer that a GGUF file's tokenizer.ggml.* keys describe. It keeps
// nothing of the file. NOT_FOUND or INVALID_ARGUMENT names the key that is
// missing, or whose value is malformed or not one that we know.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const GgufMetadata& metadata);

// The chat template of tokenizer.chat_template; null if the file has none or
// an unknown one.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(
    const GgufMetadata& metadata);

}  // namespace sparseserve
