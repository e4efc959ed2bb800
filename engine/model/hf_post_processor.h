#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// The token that post-processing puts before a text.
struct HfBegin {
  std::string text;
  int64_t token;
};

// Recognises the post_processor of a tokenizer.json; nothing if it puts no
// token before a text. INVALID_ARGUMENT names what it does beside that.
absl::StatusOr<std::optional<HfBegin>> ReadHfBegin(
    const nlohmann::json& tokenizer);

}  // namespace sparseserve
