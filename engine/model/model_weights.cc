#include "engine/model/model_weights.h"

#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

// Finds tensors by name and checks their shapes; remembers which were taken,
// so that none is left unused in silence.
class TensorSource {
 public:
  TensorSource(Backend& backend, const Checkpoint& checkpoint)
      : backend_(backend), checkpoint_(checkpoint) {}

  absl::StatusOr<StoredMatrix> Matrix(const std::string& name, int64_t rows,
                                      int64_t columns) {
    RETURN_IF_ERROR(CheckShape(name, {columns, rows}));
    return checkpoint_.GetMatrix(name);
  }

  absl::StatusOr<std::unique_ptr<Weight>> Load(const std::string& name,
                                               int64_t rows, int64_t columns,
                                               WeightUse use) {
    ASSIGN_OR_RETURN(const StoredMatrix matrix, Matrix(name, rows, columns));
    return LoadStacked(name, {&matrix, 1}, use);
  }

  // `name` is that of the first, for the error.
  absl::StatusOr<std::unique_ptr<Weight>> LoadStacked(
      const std::string& name, absl::Span<const StoredMatrix> stacked,
      WeightUse use) {
    auto weight = backend_.LoadWeight(stacked, use);
    if (weight.ok()) return weight;
    return absl::Status(weight.status().code(),
                        StrCat("tensor ", checkpoint_.StoredName(name), ": ",
                               weight.status().message()));
  }

  absl::StatusOr<std::vector<float>> ReadVector(const std::string& name,
                                                int64_t size) {
    RETURN_IF_ERROR(CheckShape(name, {size}));
    ASSIGN_OR_RETURN(const StoredMatrix vector, checkpoint_.GetVector(name));
    std::vector<float> values(size);
    DequantizeRow(vector.dtype, vector.data, size, values.data());
    const float offset = checkpoint_.FindTensor(name)->offset;
    for (float& value : values) value += offset;
    return values;
  }

  // float [size] on the device.
  absl::StatusOr<Buffer> LoadVector(const std::string& name, int64_t size) {
    ASSIGN_OR_RETURN(const std::vector<float> values, ReadVector(name, size));
    return ToDevice(values);
  }

  // float [the sum of `sizes`]: the parts one after another.
  absl::StatusOr<Buffer> LoadConcatenated(
      const std::vector<std::pair<std::string, int64_t>>& parts) {
    std::vector<float> values;
    for (const auto& [name, size] : parts) {
      RETURN_IF_ERROR(CheckShape(name, {size}));
      ASSIGN_OR_RETURN(const StoredMatrix vector, checkpoint_.GetVector(name));
      values.resize(values.size() + size);
      DequantizeRow(vector.dtype, vector.data, size,
                    &values[values.size() - size]);
    }
    return ToDevice(values);
  }

  bool Has(const std::string& name) const {
    return checkpoint_.FindTensor(name) != nullptr;
  }

  // UNIMPLEMENTED names a tensor that nothing took: the model has a part that
  // the forward pass lacks.
  absl::Status CheckAllTaken() const {
    for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
      if (!taken_.contains(tensor.name)) {
        return absl::UnimplementedError(
            StrCat("tensor ", Quoted(checkpoint_.StoredName(tensor.name)),
                   " has no use in this architecture"));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<Buffer> ToDevice(const std::vector<float>& values) {
    const int64_t bytes = values.size() * sizeof(float);
    ASSIGN_OR_RETURN(Buffer buffer, backend_.Allocate(bytes));
    backend_.Upload(values.data(), bytes, buffer.data());
    return buffer;
  }

  absl::Status CheckShape(const std::string& name,
                          const std::vector<int64_t>& wanted) {
    const CheckpointTensor* tensor = checkpoint_.FindTensor(name);
    const std::string title = StrCat("tensor ", checkpoint_.StoredName(name));
    const std::string wanted_text = absl::StrJoin(wanted, ", ");
    if (tensor == nullptr) {
      return absl::InvalidArgumentError(
          StrCat(title, " is missing, wanted shape [", wanted_text, "]"));
    }
    if (tensor->shape != wanted) {
      return absl::InvalidArgumentError(
          StrCat(title, " has shape [", absl::StrJoin(tensor->shape, ", "),
                 "], wanted [", wanted_text, "]"));
    }
    taken_.insert(tensor->name);
    return absl::OkStatus();
  }

  Backend& backend_;
  const Checkpoint& checkpoint_;
  absl::flat_hash_set<std::string_view> taken_;
};

// Vectors of the attention half that only some models have.
absl::Status LoadAttentionVectors(TensorSource& source,
                                  const ModelConfig& config,
                                  const std::string& prefix,
                                  LayerWeights& layer) {
  // Llama files do not say whether they have biases, except by having them.
  if (config.has_qkv_bias || source.Has(prefix + "attn_q.bias")) {
    ASSIGN_OR_RETURN(layer.qkv_bias,
                     source.LoadConcatenated(
                         {{prefix + "attn_q.bias", config.q_columns()},
                          {prefix + "attn_k.bias", config.kv_columns()},
                          {prefix + "attn_v.bias", config.kv_columns()}}));
  }
  if (config.has_qk_norm) {
    ASSIGN_OR_RETURN(
        layer.query_norm,
        source.LoadVector(prefix + "attn_q_norm.weight", config.head_dim));
    ASSIGN_OR_RETURN(
        layer.key_norm,
        source.LoadVector(prefix + "attn_k_norm.weight", config.head_dim));
  }
  return absl::OkStatus();
}

absl::Status LoadPostNorms(TensorSource& source, const ModelConfig& config,
                           const std::string& prefix, LayerWeights& layer) {
  if (!config.has_post_norms) return absl::OkStatus();
  ASSIGN_OR_RETURN(
      layer.attention_post_norm,
      source.LoadVector(prefix + "post_attention_norm.weight", config.hidden));
  ASSIGN_OR_RETURN(
      layer.mlp_post_norm,
      source.LoadVector(prefix + "post_ffw_norm.weight", config.hidden));
  return absl::OkStatus();
}

absl::StatusOr<LayerWeights> LoadLayer(TensorSource& source,
                                       const ModelConfig& config,
                                       int32_t index) {
  const std::string prefix = StrCat("blk.", index, ".");
  const auto name = [&](std::string_view part) {
    return StrCat(prefix, part, ".weight");
  };
  LayerWeights layer;
  ASSIGN_OR_RETURN(layer.attention_norm,
                   source.LoadVector(name("attn_norm"), config.hidden));
  ASSIGN_OR_RETURN(
      const StoredMatrix q,
      source.Matrix(name("attn_q"), config.q_columns(), config.hidden));
  ASSIGN_OR_RETURN(
      const StoredMatrix k,
      source.Matrix(name("attn_k"), config.kv_columns(), config.hidden));
  ASSIGN_OR_RETURN(
      const StoredMatrix v,
      source.Matrix(name("attn_v"), config.kv_columns(), config.hidden));
  ASSIGN_OR_RETURN(layer.qkv, source.LoadStacked(name("attn_q"), {q, k, v},
                                                 WeightUse::kLayer));
  ASSIGN_OR_RETURN(layer.attention_output,
                   source.Load(name("attn_output"), config.hidden,
                               config.q_columns(), WeightUse::kLayer));
  ASSIGN_OR_RETURN(layer.mlp_norm,
                   source.LoadVector(name("ffn_norm"), config.hidden));
  ASSIGN_OR_RETURN(
      const StoredMatrix gate,
      source.Matrix(name("ffn_gate"), config.mlp_hidden, config.hidden));
  ASSIGN_OR_RETURN(
      const StoredMatrix up,
      source.Matrix(name("ffn_up"), config.mlp_hidden, config.hidden));
  ASSIGN_OR_RETURN(
      layer.gate_up,
      source.LoadStacked(name("ffn_gate"), {gate, up}, WeightUse::kLayer));
  ASSIGN_OR_RETURN(layer.down,
                   source.Load(name("ffn_down"), config.hidden,
                               config.mlp_hidden, WeightUse::kLayer));
  RETURN_IF_ERROR(LoadAttentionVectors(source, config, prefix, layer));
  RETURN_IF_ERROR(LoadPostNorms(source, config, prefix, layer));
  return layer;
}

// Llama 3.1's scaled frequencies, which GGUF files hold as a tensor.
absl::StatusOr<std::vector<float>> LoadRopeDivisors(TensorSource& source,
                                                    const ModelConfig& config) {
  static constexpr char kName[] = "rope_freqs.weight";
  std::vector<float> divisors;
  if (config.architecture != Architecture::kLlama || !source.Has(kName)) {
    return divisors;
  }
  if (!std::holds_alternative<std::monostate>(config.rope.scaling)) {
    return absl::UnimplementedError(StrCat(
        "tensor ", kName, " beside another scaling of rotary frequencies"));
  }
  const int32_t pairs = config.head_dim / 2;
  ASSIGN_OR_RETURN(divisors, source.ReadVector(kName, pairs));
  for (const float divisor : divisors) {
    if (!(divisor > 0) || std::isinf(divisor)) {
      return absl::InvalidArgumentError(StrCat("tensor ", kName, " holds ",
                                               divisor,
                                               ", must be above 0 and finite"));
    }
  }
  return divisors;
}

}  // namespace

absl::StatusOr<ModelWeights> LoadModelWeights(
    Backend& backend, const Checkpoint& checkpoint, const ModelConfig& config,
    const std::function<void(double done)>& progress) {
  TensorSource source(backend, checkpoint);
  ModelWeights weights;
  if (progress) progress(0);
  const bool has_head = checkpoint.FindTensor("output.weight") != nullptr;
  ASSIGN_OR_RETURN(
      weights.token_embedding,
      source.Load("token_embd.weight", config.vocab_size, config.hidden,
                  has_head ? WeightUse::kTable : WeightUse::kFewRows));
  ASSIGN_OR_RETURN(weights.output_norm,
                   source.LoadVector("output_norm.weight", config.hidden));
  if (has_head) {
    ASSIGN_OR_RETURN(weights.separate_head,
                     source.Load("output.weight", config.vocab_size,
                                 config.hidden, WeightUse::kFewRows));
  }
  ASSIGN_OR_RETURN(weights.rope_divisors, LoadRopeDivisors(source, config));
  checkpoint.ForgetPages();
  for (int32_t index = 0; index < config.layers; ++index) {
    if (progress) progress(static_cast<double>(index) / config.layers);
    ASSIGN_OR_RETURN(LayerWeights layer, LoadLayer(source, config, index));
    weights.layers.push_back(std::move(layer));
    // By layers, so that this process never holds a whole file beside its
    // copies. What has none is mapped again by the first step.
    checkpoint.ForgetPages();
  }
  RETURN_IF_ERROR(source.CheckAllTaken());
  if (progress) progress(1);
  return weights;
}

int64_t ModelWeights::bytes() const {
  int64_t bytes = token_embedding->bytes() + output_norm.bytes();
  if (separate_head != nullptr) bytes += separate_head->bytes();
  for (const LayerWeights& layer : layers) {
    bytes += layer.attention_norm.bytes() + layer.qkv->bytes() +
             layer.qkv_bias.bytes() + layer.query_norm.bytes() +
             layer.key_norm.bytes() + layer.attention_output->bytes() +
             layer.attention_post_norm.bytes() + layer.mlp_norm.bytes() +
             layer.gate_up->bytes() + layer.down->bytes() +
             layer.mlp_post_norm.bytes();
  }
  return bytes;
}

}  // namespace sparseserve
