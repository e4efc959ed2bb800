#include "engine/model/model_weights.h"

#include <string>
#include <string_view>
#include <utility>
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

  // float [size] on the device.
  absl::StatusOr<Buffer> LoadVector(const std::string& name, int64_t size) {
    RETURN_IF_ERROR(CheckShape(name, {size}));
    ASSIGN_OR_RETURN(const StoredMatrix vector, checkpoint_.GetVector(name));
    ASSIGN_OR_RETURN(Buffer values,
                     backend_.Allocate(size * int64_t{sizeof(float)}));
    DequantizeRow(vector.dtype, vector.data, size, values.as<float>());
    const float offset = checkpoint_.FindTensor(name)->offset;
    for (int64_t i = 0; i < size; ++i) values.as<float>()[i] += offset;
    return values;
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

absl::StatusOr<LayerWeights> LoadLayer(TensorSource& source,
                                       const ModelConfig& config,
                                       int32_t index) {
  const auto name = [&](std::string_view part) {
    return StrCat("blk.", index, ".", part, ".weight");
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
  return layer;
}

}  // namespace

absl::StatusOr<ModelWeights> LoadModelWeights(
    Backend& backend, const Checkpoint& checkpoint, const ModelConfig& config,
    const std::function<void(double done)>& progress) {
  // Ahead of all else: frequencies by table would bend every angle.
  if (checkpoint.FindTensor("rope_freqs.weight") != nullptr) {
    return absl::UnimplementedError(
        "tensor rope_freqs.weight: scaled rotary frequencies are not "
        "supported");
  }
  TensorSource source(backend, checkpoint);
  ModelWeights weights;
  ASSIGN_OR_RETURN(weights.token_embedding,
                   source.Load("token_embd.weight", config.vocab_size,
                               config.hidden, WeightUse::kFewRows));
  ASSIGN_OR_RETURN(weights.output_norm,
                   source.LoadVector("output_norm.weight", config.hidden));
  if (checkpoint.FindTensor("output.weight") != nullptr) {
    ASSIGN_OR_RETURN(weights.separate_head,
                     source.Load("output.weight", config.vocab_size,
                                 config.hidden, WeightUse::kFewRows));
  }
  for (int32_t index = 0; index < config.layers; ++index) {
    if (progress) progress(static_cast<double>(index) / config.layers);
    ASSIGN_OR_RETURN(LayerWeights layer, LoadLayer(source, config, index));
    weights.layers.push_back(std::move(layer));
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
             layer.attention_output->bytes() + layer.mlp_norm.bytes() +
             layer.gate_up->bytes() + layer.down->bytes();
  }
  return bytes;
}

}  // namespace sparseserve
