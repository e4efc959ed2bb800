#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/gguf_metadata.h"

namespace sparseserve {

// The model families whose forward pass the engine has.
enum class Architecture { kLlama };
inline constexpr Architecture kArchitectures[] = {Architecture::kLlama};

// As in general.architecture: "llama".
std::string_view ArchitectureName(Architecture architecture);

// A decoder's shape, from the model file's metadata. Every value is in range:
// products of them that size a tensor fit in 63 bits.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // divides heads
  int32_t head_dim = 0;  // a multiple of 8
  int32_t mlp_hidden = 0;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  float norm_epsilon = 0;
  float rope_base = 0;

  int32_t q_columns() const { return heads * head_dim; }
  int32_t kv_columns() const { return kv_heads * head_dim; }
  int32_t qkv_columns() const { return q_columns() + 2 * kv_columns(); }
};

// INVALID_ARGUMENT names the key, its value and what it may be; UNIMPLEMENTED
// names an architecture or a feature of the model that the engine lacks.
absl::StatusOr<ModelConfig> ReadModelConfig(const GgufMetadata& metadata);

}  // namespace sparseserve
