#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"

namespace sparseserve {

// A `model_type` of config.json: the forward pass that it means, and what
// transformers takes where the file leaves a field out.
struct HfFamily {
  std::string_view model_type;
  Architecture architecture;
  float rope_base;
  bool is_tied;               // tie_word_embeddings
  int32_t kv_heads = 0;       // 0: as many as heads
  int32_t head_dim = 0;       // 0: hidden_size / num_attention_heads
  int32_t window_tokens = 0;  // sliding_window; 0: none
  // Gemma 3's published configurations leave these out too.
  int32_t heads = 0;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;

  bool is_gemma() const {
    return architecture == Architecture::kGemma2 ||
           architecture == Architecture::kGemma3;
  }
};

// UNIMPLEMENTED names a model_type that is not known, and those that are.
absl::StatusOr<HfFamily> FindHfFamily(std::string_view model_type);

}  // namespace sparseserve
