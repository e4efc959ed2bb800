#include "engine/model/transformer.h"

#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

absl::StatusOr<Buffer> AllocateRows(Backend& backend, int64_t rows,
                                    int64_t columns) {
  return backend.Allocate(rows * columns * static_cast<int64_t>(sizeof(float)));
}

MatrixView View(const Buffer& buffer, int64_t rows, int64_t columns) {
  return {buffer.as<float>(), rows, columns};
}

}  // namespace

Transformer::Transformer(Backend& backend, const ModelConfig& config,
                         ModelWeights weights, const Limits& limits)
    : backend_(backend),
      config_(config),
      limits_(limits),
      weights_(std::move(weights)) {}

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(
    Backend& backend, const ModelConfig& config, ModelWeights weights,
    const Limits& limits) {
  SPARSESERVE_CHECK(limits.max_rows >= 1 && limits.max_logit_rows >= 1);
  std::unique_ptr<Transformer> made(
      new Transformer(backend, config, std::move(weights), limits));
  ASSIGN_OR_RETURN(made->rope_,
                   BuildRopeTable(backend, config.context_tokens,
                                  config.head_dim, config.rope.base));
  const int64_t rows = limits.max_rows;
  const int64_t logit_rows = limits.max_logit_rows;
  Activations& a = made->activations_;
  ASSIGN_OR_RETURN(a.hidden, AllocateRows(backend, rows, config.hidden));
  ASSIGN_OR_RETURN(a.normed, AllocateRows(backend, rows, config.hidden));
  ASSIGN_OR_RETURN(a.qkv, AllocateRows(backend, rows, config.qkv_columns()));
  ASSIGN_OR_RETURN(a.attention_output,
                   AllocateRows(backend, rows, config.q_columns()));
  ASSIGN_OR_RETURN(a.gate_up,
                   AllocateRows(backend, rows, 2 * int64_t{config.mlp_hidden}));
  ASSIGN_OR_RETURN(a.mlp, AllocateRows(backend, rows, config.mlp_hidden));
  ASSIGN_OR_RETURN(a.head_input,
                   AllocateRows(backend, logit_rows, config.hidden));
  ASSIGN_OR_RETURN(a.logits,
                   AllocateRows(backend, logit_rows, config.vocab_size));
  return made;
}

void Transformer::Forward(const AttentionPlan& plan, const KvCache& cache,
                          StageClock& clock, StepTimes& times) {
  rows_ = plan.rows();
  SPARSESERVE_CHECK(rows_ >= 1 && rows_ <= limits_.max_rows);
  const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);

  backend_.Embed(*weights_.token_embedding, plan.tokens(), hidden);
  clock.Lap(times.embed);
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    AttentionHalf(weights_.layers[layer], plan, cache.Layer(layer), clock,
                  times);
    MlpHalf(weights_.layers[layer], plan);
  }
  clock.Lap(times.mlp);
}

// hidden += W_o * Attention(RoPE(W_qkv * RmsNorm(hidden)))
void Transformer::AttentionHalf(const LayerWeights& layer,
                                const AttentionPlan& plan, KvLayerView kv,
                                StageClock& clock, StepTimes& times) {
  const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);
  const MatrixView normed = View(activations_.normed, rows_, config_.hidden);
  const MatrixView qkv = View(activations_.qkv, rows_, config_.qkv_columns());
  const MatrixView attended =
      View(activations_.attention_output, rows_, config_.q_columns());

  backend_.RmsNorm(hidden, layer.attention_norm.as<float>(),
                   config_.norm_epsilon, normed);
  backend_.Linear(*layer.qkv, normed, plan.groups(), /*accumulate=*/false, qkv);
  clock.Lap(times.mlp);

  RopeAndStoreArgs rope;
  rope.qkv = qkv;
  rope.heads = config_.heads;
  rope.positions = plan.positions();
  rope.kv_slots = plan.kv_slots();
  rope.cosines = rope_.cosines.as<float>();
  rope.sines = rope_.sines.as<float>();
  rope.kv = kv;
  backend_.RopeAndStore(rope);

  AttentionArgs attention;
  attention.queries = qkv;
  attention.heads = config_.heads;
  attention.kv = kv;
  attention.pages = plan.pages();
  attention.layout = &plan.layout();
  attention.scale = config_.attention_scale;
  attention.output = attended;
  backend_.Attention(attention);
  clock.Lap(times.attention);

  backend_.Linear(*layer.attention_output, attended, plan.groups(),
                  /*accumulate=*/true, hidden);
}

// hidden += W_down * SwiGlu(W_gate_up * RmsNorm(hidden))
void Transformer::MlpHalf(const LayerWeights& layer,
                          const AttentionPlan& plan) {
  const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);
  const MatrixView normed = View(activations_.normed, rows_, config_.hidden);
  const MatrixView gate_up =
      View(activations_.gate_up, rows_, 2 * int64_t{config_.mlp_hidden});
  const MatrixView gated = View(activations_.mlp, rows_, config_.mlp_hidden);

  backend_.RmsNorm(hidden, layer.mlp_norm.as<float>(), config_.norm_epsilon,
                   normed);
  backend_.Linear(*layer.gate_up, normed, plan.groups(), /*accumulate=*/false,
                  gate_up);
  backend_.SwiGlu(gate_up, gated);
  backend_.Linear(*layer.down, gated, plan.groups(), /*accumulate=*/true,
                  hidden);
}

ConstMatrixView Transformer::Logits(absl::Span<const int32_t> rows) {
  const int64_t count = static_cast<int64_t>(rows.size());
  SPARSESERVE_CHECK(count >= 1 && count <= limits_.max_logit_rows);
  const MatrixView input = View(activations_.head_input, count, config_.hidden);
  for (int64_t i = 0; i < count; ++i) {
    SPARSESERVE_DCHECK(rows[i] >= 0 && rows[i] < rows_);
    const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);
    backend_.RmsNorm(ConstMatrixView(hidden.row(rows[i]), 1, config_.hidden),
                     weights_.output_norm.as<float>(), config_.norm_epsilon,
                     MatrixView{input.row(i), 1, config_.hidden});
  }
  const MatrixView logits =
      View(activations_.logits, count, config_.vocab_size);
  backend_.Linear(weights_.head(), input, RowGroups{count, 0},
                  /*accumulate=*/false, logits);
  return logits;
}

int64_t Transformer::weights_bytes() const {
  return weights_.bytes() + rope_.cosines.bytes() + rope_.sines.bytes();
}

int64_t Transformer::activations_bytes() const {
  const Activations& a = activations_;
  return a.hidden.bytes() + a.normed.bytes() + a.qkv.bytes() +
         a.attention_output.bytes() + a.gate_up.bytes() + a.mlp.bytes() +
         a.head_input.bytes() + a.logits.bytes();
}

}  // namespace sparseserve
