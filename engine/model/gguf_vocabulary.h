#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/gguf_metadata.h"
#include "engine/tokenizer/vocabulary_tokenizer.h"

namespace sparseserve {

// Reads what tokenizer.ggml.* keys of every kind of tokenizer hold: tokens,
// their kinds, and where texts begin and end; no merges. `begins_by_default` is
// taken where tokenizer.ggml.add_bos_token is missing. NOT_FOUND or
// INVALID_ARGUMENT names the key that is missing, or whose value is malformed
// or not supported.
absl::Status ReadGgufVocabulary(const GgufMetadata& metadata,
                                bool begins_by_default, Vocabulary& vocabulary);

// The flag, `otherwise` where it is missing.
absl::StatusOr<bool> ReadGgufFlag(const GgufMetadata& metadata,
                                  std::string_view key, bool otherwise);

}  // namespace sparseserve
