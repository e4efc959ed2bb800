#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/token_kind.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// The tokens and merges of a tokenizer.json.
struct HfVocabulary {
  // Ids that a file leaves out, and those by which a model's matrices are
  // larger than its vocabulary, together.
  static constexpr size_t kMaxUnused = 65536;

  std::vector<std::string> tokens;  // by id; empty where unused
  std::vector<TokenKind> kinds;     // by id
  std::vector<std::string> merges;  // "left right", by falling priority
  bool ignore_merges = false;
  bool byte_fallback = false;
};

// Reads model and added_tokens, and appends unused tokens until there are
// `least_tokens`. INVALID_ARGUMENT names the value that is malformed or not
// supported.
absl::StatusOr<HfVocabulary> ReadHfVocabulary(const nlohmann::json& tokenizer,
                                              size_t least_tokens);

}  // namespace sparseserve
