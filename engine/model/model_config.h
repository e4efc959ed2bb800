#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/model/gguf_metadata.h"

namespace sparseserve {

// The model families whose forward pass the engine has.
enum class Architecture { kLlama, kSmolLm3, kQwen2, kQwen3, kGemma2, kGemma3 };
inline constexpr Architecture kArchitectures[] = {
    Architecture::kLlama, Architecture::kSmolLm3, Architecture::kQwen2,
    Architecture::kQwen3, Architecture::kGemma2,  Architecture::kGemma3};

// As in general.architecture: "llama", "qwen2", ...
std::string_view ArchitectureName(Architecture architecture);

// What the gate of the gated MLP goes through.
enum class Activation { kSilu, kGeluTanh };

// Frequencies of the rotary embedding: pair i turns by position * f(i), where
// f(i) = base^(-2 i / head_dim), changed by the scaling.
struct RopeFrequencies {
  // f(i) / factor for all pairs (position interpolation, arXiv 2306.15595).
  struct Linear {
    float factor = 1;
  };
  // Llama 3.1's: wavelengths above original_context_tokens / low_factor are
  // divided by `factor`, those below original_context_tokens / high_factor
  // stay, and those between change smoothly.
  struct Llama3 {
    float factor = 1;
    float low_factor = 1;
    float high_factor = 4;
    int32_t original_context_tokens = 0;
  };
  // f(i) / divisors[i], [head_dim / 2]: as GGUF files hold Llama 3.1's.
  struct Divisors {
    std::vector<float> divisors;
  };
  float base = 10000;
  std::variant<std::monostate, Linear, Llama3, Divisors> scaling;
};

// What may differ between the layers of one model.
struct LayerConfig {
  // A query sees so many latest keys, itself among them; 0: all before it.
  int32_t window_tokens = 0;
  bool rotates = true;         // false: no positions (SmolLM3's every fourth)
  bool is_local_rope = false;  // turns by ModelConfig::local_rope
  // KV heads that are not computed, ascending, nor are the query heads that
  // share them (pruned_heads.h).
  std::vector<int32_t> pruned_kv_heads;
};

// A decoder's shape, from the model file. Every value is in range: products of
// them that size a tensor fit in 63 bits.
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
  RopePairs rope_pairs = RopePairs::kAdjacent;
  RopeFrequencies rope;
  RopeFrequencies local_rope;              // of layers that say so
  std::vector<LayerConfig> layer_configs;  // [layers]

  Activation activation = Activation::kSilu;
  // q, k and v add a vector (Qwen2). Llama files say so by the tensors alone.
  bool has_qkv_bias = false;
  bool has_qk_norm = false;     // RMSNorm of each q and k head (Qwen3, Gemma 3)
  bool has_post_norms = false;  // RMSNorm of each half's result (Gemma)
  float embedding_scale = 1;    // multiplies token embeddings (Gemma)
  float attention_scale = 0;    // multiplies q . k
  // cap * tanh(x / cap) of scores and of logits; 0: none (Gemma 2).
  float attention_softcap = 0;
  float logit_softcap = 0;

  // What a layer computes of its KV heads, ascending, and how many of both.
  std::vector<int32_t> KvHeadsOf(int32_t layer) const;
  int32_t kv_head_count(int32_t layer) const {
    return kv_heads -
           static_cast<int32_t>(layer_configs[layer].pruned_kv_heads.size());
  }
  int32_t head_count(int32_t layer) const {
    return kv_head_count(layer) * (heads / kv_heads);
  }

  // Of layers that compute all of their heads.
  int32_t q_columns() const { return heads * head_dim; }
  int32_t kv_columns() const { return kv_heads * head_dim; }
  int32_t qkv_columns() const { return q_columns() + 2 * kv_columns(); }
};

// INVALID_ARGUMENT names the key, its value and what it may be; UNIMPLEMENTED
// names an architecture or a feature of the model that the engine lacks.
absl::StatusOr<ModelConfig> ReadModelConfig(const GgufMetadata& metadata);

}  // namespace sparseserve
