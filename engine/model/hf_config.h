#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/step.h"

namespace sparseserve {

// What config.json of a Hugging Face model directory says.
struct HfConfig {
  ModelConfig model;
  bool is_tied = false;  // the output head is the embedding table
  // The text half of a model that also takes images, of which it is all that
  // is used.
  bool has_image_half = false;
  std::vector<TokenId> end_tokens;  // of eos_token_id; below vocab_size
};

// Reads the fields as transformers does, from version 4 or 5, its defaults
// included. INVALID_ARGUMENT names the field, its value and what it may be;
// UNIMPLEMENTED names a model_type or a feature of the model that the engine
// lacks.
absl::StatusOr<HfConfig> ReadHfConfig(std::string_view config_json);

// eos_token_id of generation_config.json, the only field of it that is used:
// sampling is what a request asks for. Ids are below `vocab_size`.
absl::StatusOr<std::vector<TokenId>> ReadHfEndTokens(
    std::string_view generation_config_json, int32_t vocab_size);

}  // namespace sparseserve
