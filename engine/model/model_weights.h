#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/tensor/buffer.h"

namespace sparseserve {

// Buffers that a model does not have are empty. Rows of q, k and v, and columns
// of what their heads' outputs go through, are those of the heads that the
// layer computes; of a layer that computes none both weights are null.
struct LayerWeights {
  Buffer attention_norm;  // float [hidden]
  // [(heads + 2 * KV heads) * head_dim, hidden]: q, k, v stacked
  std::unique_ptr<Weight> qkv;
  Buffer qkv_bias;    // float [rows of qkv]
  Buffer query_norm;  // float [head_dim]
  Buffer key_norm;    // float [head_dim]
  // Stored bytes of attention_output, where they are not the file's.
  std::vector<std::byte> kept_output_columns;
  std::unique_ptr<Weight> attention_output;  // [hidden, heads * head_dim]
  Buffer attention_post_norm;                // float [hidden]
  Buffer mlp_norm;                           // float [hidden]
  std::unique_ptr<Weight> gate_up;  // [2 * mlp_hidden, hidden]: gate first
  std::unique_ptr<Weight> down;     // [hidden, mlp_hidden]
  Buffer mlp_post_norm;             // float [hidden]
};

// Borrows the checkpoint's bytes: the checkpoint must outlive it.
struct ModelWeights {
  std::unique_ptr<Weight> token_embedding;  // [vocab_size, hidden]
  std::vector<LayerWeights> layers;
  Buffer output_norm;                     // float [hidden]
  std::unique_ptr<Weight> separate_head;  // null: tied to token_embedding
  // [head_dim / 2], each positive: RopeFrequencies::Divisors of `rope`, of
  // files that hold them as a tensor; else empty.
  std::vector<float> rope_divisors;

  const Weight& head() const {
    return separate_head != nullptr ? *separate_head : *token_embedding;
  }
  // Memory held besides the mapped file.
  int64_t bytes() const;
};

// INVALID_ARGUMENT names a tensor that is missing or has another shape than
// `config` asks for. `progress` (may be empty) is called with 0 ... 1.
absl::StatusOr<ModelWeights> LoadModelWeights(
    Backend& backend, const Checkpoint& checkpoint, const ModelConfig& config,
    const std::function<void(double done)>& progress);

}  // namespace sparseserve
