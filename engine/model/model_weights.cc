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
    return Named(name, weight.status());
  }

  absl::Status Named(const std::string& name,
                     const absl::Status& status) const {
    return absl::Status(status.code(),
                        StrCat("tensor ", checkpoint_.StoredName(name), ": ",
                               status.message()));
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

  absl::StatusOr<Buffer> ToDevice(const std::vector<float>& values) {
    const int64_t bytes = values.size() * sizeof(float);
    ASSIGN_OR_RETURN(Buffer buffer, backend_.Allocate(bytes));
    backend_.Upload(values.data(), bytes, buffer.data());
    return buffer;
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

int64_t RowBytes(const StoredMatrix& matrix) {
  return matrix.columns / BlockElements(matrix.dtype) *
         BlockBytes(matrix.dtype);
}

// Rows, or columns, [begin, end) of the heads that a layer computes.
using HeadRange = std::pair<int64_t, int64_t>;

// Each head has `width` of them. Heads that follow each other are one range.
std::vector<HeadRange> RangesOf(absl::Span<const int32_t> kv_heads,
                                int64_t width) {
  std::vector<HeadRange> ranges;
  for (const int32_t head : kv_heads) {
    if (ranges.empty() || ranges.back().second != head * width) {
      ranges.emplace_back(head * width, head * width);
    }
    ranges.back().second += width;
  }
  return ranges;
}

void AppendRows(const StoredMatrix& matrix, absl::Span<const HeadRange> ranges,
                std::vector<StoredMatrix>& stacked) {
  for (const auto& [begin, end] : ranges) {
    stacked.push_back({matrix.data + begin * RowBytes(matrix), matrix.dtype,
                       end - begin, matrix.columns});
  }
}

// The matrix itself if that is all of it, else a copy in `copied`.
// UNIMPLEMENTED if a range begins or ends within a stored block.
absl::StatusOr<StoredMatrix> KeepColumns(const StoredMatrix& matrix,
                                         absl::Span<const HeadRange> ranges,
                                         std::vector<std::byte>& copied) {
  const int64_t block = BlockElements(matrix.dtype);
  StoredMatrix kept = {nullptr, matrix.dtype, matrix.rows, 0};
  for (const auto& [begin, end] : ranges) {
    if (begin % block != 0 || end % block != 0) {
      return absl::UnimplementedError(
          StrCat("prune_heads keeps columns ", begin, " to ", end - 1, " of ",
                 DTypeName(matrix.dtype), ", whose blocks of ", block,
                 " columns cannot be cut"));
    }
    kept.columns += end - begin;
  }
  if (kept.columns == matrix.columns) return matrix;
  copied.reserve(matrix.rows * RowBytes(kept));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    const std::byte* const from = matrix.data + row * RowBytes(matrix);
    for (const auto& [begin, end] : ranges) {
      copied.insert(copied.end(),
                    from + begin / block * BlockBytes(matrix.dtype),
                    from + end / block * BlockBytes(matrix.dtype));
    }
  }
  kept.data = copied.data();
  return kept;
}

// Vectors of the attention half that only some models have.
absl::Status LoadAttentionVectors(TensorSource& source,
                                  const ModelConfig& config,
                                  const std::string& prefix,
                                  absl::Span<const int32_t> kv_heads,
                                  LayerWeights& layer) {
  // Llama files do not say whether they have biases, except by having them.
  if (config.has_qkv_bias || source.Has(prefix + "attn_q.bias")) {
    std::vector<float> kept;
    for (const char* part : {"attn_q.bias", "attn_k.bias", "attn_v.bias"}) {
      const bool is_query = part[5] == 'q';
      const int32_t columns =
          is_query ? config.q_columns() : config.kv_columns();
      ASSIGN_OR_RETURN(const std::vector<float> bias,
                       source.ReadVector(prefix + part, columns));
      for (const auto& [begin, end] :
           RangesOf(kv_heads, columns / config.kv_heads)) {
        kept.insert(kept.end(), bias.begin() + begin, bias.begin() + end);
      }
    }
    if (!kept.empty()) {
      ASSIGN_OR_RETURN(layer.qkv_bias, source.ToDevice(kept));
    }
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

// Of the heads that the layer computes.
absl::Status LoadHeads(TensorSource& source, const ModelConfig& config,
                       const std::string& prefix,
                       absl::Span<const int32_t> kv_heads,
                       LayerWeights& layer) {
  std::vector<StoredMatrix> stacked;
  for (const char* part : {"attn_q", "attn_k", "attn_v"}) {
    const bool is_query = part[5] == 'q';
    const int32_t rows = is_query ? config.q_columns() : config.kv_columns();
    ASSIGN_OR_RETURN(
        const StoredMatrix matrix,
        source.Matrix(StrCat(prefix, part, ".weight"), rows, config.hidden));
    AppendRows(matrix, RangesOf(kv_heads, rows / config.kv_heads), stacked);
  }
  const std::string output_name = prefix + "attn_output.weight";
  ASSIGN_OR_RETURN(
      const StoredMatrix output,
      source.Matrix(output_name, config.hidden, config.q_columns()));
  if (kv_heads.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(layer.qkv, source.LoadStacked(prefix + "attn_q.weight",
                                                 stacked, WeightUse::kLayer));
  const absl::StatusOr<StoredMatrix> kept = KeepColumns(
      output, RangesOf(kv_heads, config.q_columns() / config.kv_heads),
      layer.kept_output_columns);
  if (!kept.ok()) return source.Named(output_name, kept.status());
  ASSIGN_OR_RETURN(
      layer.attention_output,
      source.LoadStacked(output_name, {&*kept, 1}, WeightUse::kLayer));
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
  const std::vector<int32_t> kv_heads = config.KvHeadsOf(index);
  RETURN_IF_ERROR(LoadHeads(source, config, prefix, kv_heads, layer));
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
  RETURN_IF_ERROR(
      LoadAttentionVectors(source, config, prefix, kv_heads, layer));
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
    if (layer.qkv != nullptr) {
      bytes += layer.qkv->bytes() + layer.attention_output->bytes() +
               static_cast<int64_t>(layer.kept_output_columns.size());
    }
    bytes += layer.attention_norm.bytes() + layer.qkv_bias.bytes() +
             layer.query_norm.bytes() + layer.key_norm.bytes() +
             layer.attention_post_norm.bytes() + layer.mlp_norm.bytes() +
             layer.gate_up->bytes() + layer.down->bytes() +
             layer.mlp_post_norm.bytes();
  }
  return bytes;
}

}  // namespace sparseserve
