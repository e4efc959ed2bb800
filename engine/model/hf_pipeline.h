#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/pre_splitter.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// What a tokenizer.json does to text around its merges.
struct HfPipeline {
  PreSplit pre_split = PreSplit::kGpt2;
  bool normalizes_nfc = false;

  // The token that post-processing puts before a text.
  struct Begin {
    std::string text;
    int64_t token;
  };
  std::optional<Begin> begin;
};

// Recognises the document's normalizer, pre_tokenizer, post_processor and
// decoder. INVALID_ARGUMENT names the step or setting that is not a known one:
// none is ever left out.
absl::StatusOr<HfPipeline> ReadHfPipeline(const nlohmann::json& tokenizer);

}  // namespace sparseserve
