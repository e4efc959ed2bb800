#include "tests/testing/reference_transformer.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve::testing {
namespace {

std::vector<double> Expand(const StoredMatrix& stored) {
  std::vector<float> values(stored.rows * stored.columns);
  DequantizeRow(stored.dtype, stored.data, values.size(), values.data());
  return std::vector<double>(values.begin(), values.end());
}

}  // namespace

ReferenceTransformer::ReferenceTransformer(const GgufFile& file) {
  const auto count = [&](const char* key) {
    return static_cast<int>(
        file.metadata().GetUint32(absl::StrCat("llama.", key)).value());
  };
  const auto matrix = [&](const std::string& name) {
    const StoredMatrix stored = file.GetMatrix(name).value();
    return Matrix{static_cast<int>(stored.rows),
                  static_cast<int>(stored.columns), Expand(stored)};
  };
  const auto vector = [&](const std::string& name) {
    return Expand(file.GetVector(name).value());
  };
  heads_ = count("attention.head_count");
  kv_heads_ = count("attention.head_count_kv");
  head_dim_ = count("attention.key_length");
  epsilon_ = file.metadata()
                 .GetFloat("llama.attention.layer_norm_rms_epsilon")
                 .value();
  rope_base_ = file.metadata().GetFloat("llama.rope.freq_base").value();
  embedding_ = matrix("token_embd.weight");
  head_ = file.FindTensor("output.weight") != nullptr ? matrix("output.weight")
                                                      : embedding_;
  output_norm_ = vector("output_norm.weight");
  for (int i = 0; i < count("block_count"); ++i) {
    const std::string prefix = absl::StrCat("blk.", i, ".");
    Layer layer;
    layer.attention_norm = vector(prefix + "attn_norm.weight");
    layer.q = matrix(prefix + "attn_q.weight");
    layer.k = matrix(prefix + "attn_k.weight");
    layer.v = matrix(prefix + "attn_v.weight");
    layer.attention_output = matrix(prefix + "attn_output.weight");
    layer.mlp_norm = vector(prefix + "ffn_norm.weight");
    layer.gate = matrix(prefix + "ffn_gate.weight");
    layer.up = matrix(prefix + "ffn_up.weight");
    layer.down = matrix(prefix + "ffn_down.weight");
    layers_.push_back(std::move(layer));
  }
}

std::vector<std::vector<double>> ReferenceTransformer::Logits(
    absl::Span<const TokenId> tokens, const Visible& visible,
    const CorrectedBy& corrected) const {
  std::vector<std::vector<double>> logits;
  for (const Vector& state : Run(tokens, {visible, corrected})) {
    logits.push_back(head_.Times(Norm(state, output_norm_)));
  }
  return logits;
}

std::vector<std::vector<double>> ReferenceTransformer::Recall(
    absl::Span<const TokenId> tokens, const Visible& visible) const {
  std::vector<Vector> recall(tokens.size());
  Run(tokens, {visible, {}, &recall});
  return recall;
}

std::vector<ReferenceTransformer::Vector> ReferenceTransformer::Run(
    absl::Span<const TokenId> tokens, const Pass& pass) const {
  std::vector<Vector> states;
  for (const TokenId token : tokens) {
    const auto row = embedding_.values.begin() + token * embedding_.columns;
    states.emplace_back(row, row + embedding_.columns);
  }
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    Attend(static_cast<int>(layer), pass, states);
    for (Vector& state : states) AddMlp(layers_[layer], state);
  }
  return states;
}

ReferenceTransformer::Vector ReferenceTransformer::Matrix::Times(
    const Vector& input) const {
  Vector output(rows);
  for (int r = 0; r < rows; ++r) {
    const double* const row = values.data() + int64_t{r} * columns;
    // Four sums: one alone would wait for each addition.
    double sums[4] = {};
    int c = 0;
    for (; c + 4 <= columns; c += 4) {
      for (int s = 0; s < 4; ++s) sums[s] += row[c + s] * input[c + s];
    }
    for (; c < columns; ++c) sums[0] += row[c] * input[c];
    output[r] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  return output;
}

ReferenceTransformer::Vector ReferenceTransformer::Norm(
    const Vector& input, const Vector& gain) const {
  double squares = 0;
  for (const double value : input) squares += value * value;
  const double scale = 1 / std::sqrt(squares / input.size() + epsilon_);
  Vector output(input.size());
  for (size_t i = 0; i < input.size(); ++i) {
    output[i] = input[i] * scale * gain[i];
  }
  return output;
}

void ReferenceTransformer::Rotate(Vector& heads, int position) const {
  for (size_t i = 0; i + 1 < heads.size(); i += 2) {
    const double in_head = static_cast<double>(i % head_dim_);
    const double angle = position * std::pow(rope_base_, -in_head / head_dim_);
    const double x = heads[i];
    const double y = heads[i + 1];
    heads[i] = x * std::cos(angle) - y * std::sin(angle);
    heads[i + 1] = x * std::sin(angle) + y * std::cos(angle);
  }
}

void ReferenceTransformer::Attend(int layer_index, const Pass& pass,
                                  std::vector<Vector>& states) const {
  const Layer& layer = layers_[layer_index];
  const int count = static_cast<int>(states.size());
  std::vector<Vector> q(count), k(count), v(count);
  for (int t = 0; t < count; ++t) {
    const Vector normed = Norm(states[t], layer.attention_norm);
    q[t] = layer.q.Times(normed);
    k[t] = layer.k.Times(normed);
    v[t] = layer.v.Times(normed);
    Rotate(q[t], t);
    Rotate(k[t], t);
  }
  // Output of a row's head over keys at or before it, and the sum of their
  // weights.
  const auto attend_head = [&](int t, int head, const auto& sees, Vector& sum) {
    const int at = head * head_dim_;
    const int kv_at = head / (heads_ / kv_heads_) * head_dim_;
    double denominator = 0;
    sum.assign(head_dim_, 0);
    for (int s = 0; s <= t; ++s) {
      if (!sees(t, s)) continue;
      double score = 0;
      for (int d = 0; d < head_dim_; ++d) {
        score += q[t][at + d] * k[s][kv_at + d];
      }
      const double weight = std::exp(score / std::sqrt(head_dim_));
      denominator += weight;
      for (int d = 0; d < head_dim_; ++d) sum[d] += weight * v[s][kv_at + d];
    }
    // Who sees nothing attends to nothing.
    for (double& value : sum) value /= denominator == 0 ? 1 : denominator;
    return denominator;
  };
  const auto sees_all = [](int, int) { return true; };
  for (int t = 0; t < count; ++t) {
    Vector attended(heads_ * head_dim_);
    for (int head = 0; head < heads_; ++head) {
      const int kv_head = head / (heads_ / kv_heads_);
      const auto sees = [&](int row, int column) {
        return !pass.visible || pass.visible(layer_index, kv_head, row, column);
      };
      Vector output, dense, listed;
      const double weight = attend_head(t, head, sees, output);
      const int corrector =
          pass.corrected ? pass.corrected(layer_index, kv_head, t) : -1;
      if (corrector >= 0) {
        attend_head(corrector, head, sees_all, dense);
        attend_head(corrector, head, sees, listed);
        for (int d = 0; d < head_dim_; ++d) output[d] += dense[d] - listed[d];
      }
      std::copy(output.begin(), output.end(),
                attended.begin() + head * head_dim_);
      if (pass.recall != nullptr) {
        const double all = attend_head(t, head, sees_all, dense);
        (*pass.recall)[t].push_back(weight / all);
      }
    }
    const Vector output = layer.attention_output.Times(attended);
    for (size_t i = 0; i < output.size(); ++i) states[t][i] += output[i];
  }
}

void ReferenceTransformer::AddMlp(const Layer& layer, Vector& state) const {
  const Vector normed = Norm(state, layer.mlp_norm);
  Vector gated = layer.gate.Times(normed);
  const Vector up = layer.up.Times(normed);
  for (size_t i = 0; i < gated.size(); ++i) {
    gated[i] = gated[i] / (1 + std::exp(-gated[i])) * up[i];
  }
  const Vector output = layer.down.Times(gated);
  for (size_t i = 0; i < output.size(); ++i) state[i] += output[i];
}

}  // namespace sparseserve::testing
