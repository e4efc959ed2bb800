#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "engine/tokenizer/vocabulary_tokenizer.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// What a tokenizer.json says of how its merges are used.
struct HfModel {
  bool ignore_merges = false;
  bool byte_fallback = false;
};

// Ids that a file leaves out, and those by which a model's matrices are larger
// than its vocabulary, together.
constexpr size_t kMaxUnusedTokens = 65536;

// Reads model and added_tokens into tokens, kinds and merges, and appends
// unused tokens until there are `least_tokens`. INVALID_ARGUMENT names the
// value that is malformed or not supported.
absl::StatusOr<HfModel> ReadHfVocabulary(const nlohmann::json& tokenizer,
                                         size_t least_tokens,
                                         Vocabulary& vocabulary);

}  // namespace sparseserve
