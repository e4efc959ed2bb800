#include "engine/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

absl::StatusOr<Buffer> AllocateRows(Backend& backend, int64_t rows,
                                    int64_t columns,
                                    DType dtype = DType::kF32) {
  return backend.Allocate(rows * columns * BlockBytes(dtype));
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
      weights_(std::move(weights)),
      dtype_(backend.device().activation_dtype),
      profiler_(backend, config.kv_heads) {}

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(
    Backend& backend, const ModelConfig& config, ModelWeights weights,
    const Limits& limits) {
  SPARSESERVE_CHECK(limits.max_rows >= 1 && limits.max_logit_rows >= 1);
  std::unique_ptr<Transformer> made(
      new Transformer(backend, config, std::move(weights), limits));
  RETURN_IF_ERROR(made->BuildRopeTables());
  const int64_t rows = limits.max_rows;
  const int64_t logit_rows = limits.max_logit_rows;
  Activations& a = made->activations_;
  ASSIGN_OR_RETURN(a.hidden, AllocateRows(backend, rows, config.hidden));
  const DType dtype = made->dtype_;
  const int64_t widest =
      std::max<int64_t>(2 * int64_t{config.mlp_hidden}, config.q_columns());
  ASSIGN_OR_RETURN(a.normed, AllocateRows(backend, rows, config.hidden, dtype));
  ASSIGN_OR_RETURN(a.qkv,
                   AllocateRows(backend, rows, config.qkv_columns(), dtype));
  ASSIGN_OR_RETURN(a.attention_output,
                   AllocateRows(backend, rows, config.q_columns(), dtype));
  ASSIGN_OR_RETURN(a.gate_up, AllocateRows(backend, rows, widest, dtype));
  ASSIGN_OR_RETURN(a.mlp,
                   AllocateRows(backend, rows, config.mlp_hidden, dtype));
  ASSIGN_OR_RETURN(a.head_input,
                   AllocateRows(backend, logit_rows, config.hidden, dtype));
  ASSIGN_OR_RETURN(a.logits,
                   AllocateRows(backend, logit_rows, config.vocab_size));
  if (!backend.device().shares_host_memory) {
    made->host_logits_.resize(logit_rows * config.vocab_size);
  }
  if (limits.measures_recall) {
    ASSIGN_OR_RETURN(a.lse, AllocateRows(backend, rows, config.heads));
    ASSIGN_OR_RETURN(a.dense_lse, AllocateRows(backend, rows, config.heads));
  }
  return made;
}

absl::Status Transformer::BuildRopeTables() {
  RopeFrequencies frequencies = config_.rope;
  if (!weights_.rope_divisors.empty()) {
    frequencies.scaling = RopeFrequencies::Divisors{weights_.rope_divisors};
  }
  ASSIGN_OR_RETURN(rope_, BuildRopeTable(backend_, config_.context_tokens,
                                         config_.head_dim, frequencies));
  const auto& layers = config_.layer_configs;
  if (std::any_of(layers.begin(), layers.end(), [](const LayerConfig& layer) {
        return layer.rotates && layer.is_local_rope;
      })) {
    ASSIGN_OR_RETURN(local_rope_,
                     BuildRopeTable(backend_, config_.context_tokens,
                                    config_.head_dim, config_.local_rope));
  }
  return absl::OkStatus();
}

AttentionPlan::Shape Transformer::PlanShape(const ModelConfig& config) {
  AttentionPlan::Shape shape;
  shape.layers = config.layers;
  shape.heads = config.heads;
  shape.kv_heads = config.kv_heads;
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    shape.layer_windows.push_back(config.layer_configs[layer].window_tokens);
    shape.layer_kv_heads.push_back(config.KvHeadsOf(layer));
  }
  return shape;
}

void Transformer::Forward(AttentionPlan& plan, const KvCache& cache,
                          StageClock& clock, StepTimes& times) {
  rows_ = plan.rows();
  SPARSESERVE_CHECK(rows_ >= 1 && rows_ <= limits_.max_rows);
  const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);

  backend_.Embed(*weights_.token_embedding, plan.tokens(),
                 config_.embedding_scale, hidden);
  clock.Lap(times.embed);
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    AttentionHalf(layer, plan, cache.Layer(layer), clock, times);
    MlpHalf(weights_.layers[layer], plan);
  }
  clock.Lap(times.mlp);
}

// hidden += W_o * Attention(RoPE(W_qkv * RmsNorm(hidden)))
void Transformer::AttentionHalf(int32_t layer, AttentionPlan& plan,
                                KvLayerView kv, StageClock& clock,
                                StepTimes& times) {
  const LayerWeights& weights = weights_.layers[layer];
  const int32_t heads = config_.head_count(layer);
  SetPrunedRecall(layer, plan);
  if (heads == 0) return;
  const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);
  const MatrixView normed = Rows(activations_.normed, rows_, config_.hidden);
  const MatrixView qkv = Rows(activations_.qkv, rows_, weights.qkv->rows());
  const MatrixView attended = Rows(activations_.attention_output, rows_,
                                   int64_t{heads} * config_.head_dim);

  backend_.RmsNorm(hidden, weights.attention_norm.as<float>(),
                   config_.norm_epsilon, normed);
  backend_.Linear(*weights.qkv, normed, plan.groups(), /*accumulate=*/false,
                  qkv);
  clock.Lap(times.mlp);

  RotateAndStore(layer, plan, kv, qkv);

  AttentionArgs attention;
  attention.queries = qkv;
  attention.heads = heads;
  attention.kv = kv;
  attention.pages = plan.pages();
  attention.groups = plan.groups();
  attention.scale = config_.attention_scale;
  attention.softcap = config_.attention_softcap;
  attention.layout = &plan.layout(layer);
  if (plan.Selects(layer)) {
    clock.Lap(times.attention);
    attention.layout = &Select(layer, plan, attention);
    clock.Lap(times.selection);
  }
  attention.output = attended;
  if (!plan.samples().empty() || !plan.profiled().empty()) {
    SPARSESERVE_CHECK(limits_.measures_recall);
    attention.lse = activations_.lse.as<float>();
  }
  attention.skipped = plan.CountSkipped(layer);
  backend_.Attention(attention);
  if (backend_.device().shares_host_memory) plan.TakeSkipped(layer);
  if (!plan.samples().empty() || plan.Corrects(layer)) {
    AttendDensely(layer, plan, attention);
  }
  if (!plan.profiled().empty()) MeasureProfiles(layer, plan, attention);
  clock.Lap(times.attention);

  AddHalf(*weights.attention_output, attended, weights.attention_post_norm,
          plan);
}

MatrixView Transformer::Rows(const Buffer& buffer, int64_t rows,
                             int64_t columns) const {
  return {buffer.data(), dtype_, rows, columns};
}

const float* Transformer::OnHost(const float* lse, int32_t heads,
                                 std::vector<float>& copy) {
  if (backend_.device().shares_host_memory) return lse;
  copy.resize(rows_ * heads);
  backend_.Download(reinterpret_cast<const std::byte*>(lse),
                    static_cast<int64_t>(copy.size() * sizeof(float)),
                    copy.data());
  return copy.data();
}

MatrixView Transformer::DenseOutput(const AttentionArgs& first) const {
  return Rows(activations_.gate_up, rows_, first.output.columns);
}

void Transformer::AttendDensely(int32_t layer, const AttentionPlan& plan,
                                const AttentionArgs& attention) {
  AttentionArgs dense = attention;
  dense.skipped = nullptr;
  dense.layout = &plan.dense_rows(layer);
  dense.output = DenseOutput(attention);
  dense.lse = activations_.dense_lse.as<float>();
  backend_.Attention(dense);
  MeasureRecall(layer, plan, attention.lse, dense.lse);
  if (!plan.Corrects(layer)) return;
  backend_.Correct({.corrections = plan.corrections(layer),
                    .layer = layer,
                    .kv_heads = attention.kv.kv_heads,
                    .attended = dense.output,
                    .output = attention.output});
}

void Transformer::MeasureRecall(int32_t layer, const AttentionPlan& plan,
                                const float* lse, const float* dense_lse) {
  if (plan.samples().empty()) return;
  const int32_t heads = config_.head_count(layer);
  const int32_t group = config_.heads / config_.kv_heads;
  lse = OnHost(lse, heads, host_lse_);
  dense_lse = OnHost(dense_lse, heads, host_dense_lse_);
  const std::vector<int32_t> kv_heads = config_.KvHeadsOf(layer);
  for (const AttentionPlan::Sample& sample : plan.samples()) {
    const int64_t first = int64_t{sample.row} * heads;
    float* recall = sample.recall + int64_t{layer} * config_.heads;
    for (int32_t head = 0; head < heads; ++head) {
      recall[kv_heads[head / group] * group + head % group] =
          std::exp(lse[first + head] - dense_lse[first + head]);
    }
  }
}

void Transformer::SetPrunedRecall(int32_t layer,
                                  const AttentionPlan& plan) const {
  const int32_t group = config_.heads / config_.kv_heads;
  for (const AttentionPlan::Sample& sample : plan.samples()) {
    float* recall = sample.recall + int64_t{layer} * config_.heads;
    for (const int32_t head : config_.layer_configs[layer].pruned_kv_heads) {
      std::fill_n(recall + int64_t{head} * group, group, 1.0f);
    }
  }
}

void Transformer::MeasureProfiles(int32_t layer, const AttentionPlan& plan,
                                  const AttentionArgs& attention) {
  AttentionArgs dense = attention;
  dense.skipped = nullptr;
  dense.layout = nullptr;  // the profiler's
  dense.output = DenseOutput(attention);
  dense.lse = activations_.dense_lse.as<float>();
  profiler_.Measure(layer, plan, attention, dense);
}

const BlockLayout& Transformer::Select(int32_t layer, AttentionPlan& plan,
                                       const AttentionArgs& attention) {
  SelectArgs args;
  args.queries = attention.queries;
  args.heads = attention.heads;
  args.kv = attention.kv;
  args.pages = attention.pages;
  args.groups = attention.groups;
  args.scale = attention.scale;
  args.softcap = attention.softcap;
  args.base = &plan.layout(layer);
  args.rules = plan.rules();
  args.selections = plan.selections(layer);
  args.layer = layer;
  args.kept = plan.FindKept(layer);
  args.selected = &plan.selected(layer);
  const bool tells_at_end = !backend_.device().shares_host_memory;
  if (tells_at_end) args.chosen = &plan.chosen(layer);
  backend_.Select(args);
  if (!tells_at_end) plan.TakeSelected(layer, args.selected->layout());
  return args.selected->layout();
}

void Transformer::RotateAndStore(int32_t layer, const AttentionPlan& plan,
                                 KvLayerView kv, MatrixView qkv) {
  const LayerWeights& weights = weights_.layers[layer];
  const LayerConfig& layer_config = config_.layer_configs[layer];
  RopeAndStoreArgs rope;
  rope.qkv = qkv;
  rope.heads = config_.head_count(layer);
  rope.bias = weights.qkv_bias.as<float>();
  rope.query_gain = weights.query_norm.as<float>();
  rope.key_gain = weights.key_norm.as<float>();
  rope.norm_epsilon = config_.norm_epsilon;
  rope.positions = plan.positions();
  rope.kv_slots = plan.kv_slots();
  rope.pairs = config_.rope_pairs;
  if (layer_config.rotates) {
    const RopeTable& table = layer_config.is_local_rope ? local_rope_ : rope_;
    rope.cosines = table.cosines.as<float>();
    rope.sines = table.sines.as<float>();
  }
  rope.kv = kv;
  backend_.RopeAndStore(rope);
}

// hidden += W_down * Gated(W_gate_up * RmsNorm(hidden))
void Transformer::MlpHalf(const LayerWeights& layer,
                          const AttentionPlan& plan) {
  const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);
  const MatrixView normed = Rows(activations_.normed, rows_, config_.hidden);
  const MatrixView gate_up =
      Rows(activations_.gate_up, rows_, 2 * int64_t{config_.mlp_hidden});
  const MatrixView gated = Rows(activations_.mlp, rows_, config_.mlp_hidden);

  backend_.RmsNorm(hidden, layer.mlp_norm.as<float>(), config_.norm_epsilon,
                   normed);
  backend_.Linear(*layer.gate_up, normed, plan.groups(), /*accumulate=*/false,
                  gate_up);
  switch (config_.activation) {
    case Activation::kSilu:
      backend_.SwiGlu(gate_up, gated);
      break;
    case Activation::kGeluTanh:
      backend_.GeGlu(gate_up, gated);
      break;
  }
  AddHalf(*layer.down, gated, layer.mlp_post_norm, plan);
}

void Transformer::AddHalf(const Weight& weight, ConstMatrixView input,
                          const Buffer& post_norm, const AttentionPlan& plan) {
  const MatrixView hidden = View(activations_.hidden, rows_, config_.hidden);
  if (!config_.has_post_norms) {
    return backend_.Linear(weight, input, plan.groups(), /*accumulate=*/true,
                           hidden);
  }
  const MatrixView result = Rows(activations_.normed, rows_, config_.hidden);
  backend_.Linear(weight, input, plan.groups(), /*accumulate=*/false, result);
  backend_.AddRmsNorm(result, post_norm.as<float>(), config_.norm_epsilon,
                      hidden);
}

ConstMatrixView Transformer::DeviceLogits(absl::Span<const int32_t> rows) {
  const int64_t count = static_cast<int64_t>(rows.size());
  SPARSESERVE_CHECK(count >= 1 && count <= limits_.max_logit_rows);
  for (const int32_t row : rows) {
    SPARSESERVE_DCHECK(row >= 0 && row < rows_);
  }
  const MatrixView input = Rows(activations_.head_input, count, config_.hidden);
  backend_.RmsNormOf(rows, View(activations_.hidden, rows_, config_.hidden),
                     weights_.output_norm.as<float>(), config_.norm_epsilon,
                     input);
  const MatrixView logits =
      View(activations_.logits, count, config_.vocab_size);
  backend_.Linear(weights_.head(), input, RowGroups{count, 0},
                  /*accumulate=*/false, logits);
  if (config_.logit_softcap > 0) {
    backend_.SoftCap(config_.logit_softcap, logits);
  }
  return logits;
}

ConstMatrixView Transformer::Logits(absl::Span<const int32_t> rows) {
  const ConstMatrixView logits = DeviceLogits(rows);
  if (host_logits_.empty()) return logits;
  backend_.Download(logits.data,
                    logits.rows * logits.columns * int64_t{sizeof(float)},
                    host_logits_.data());
  return ConstMatrixView(host_logits_.data(), logits.rows, logits.columns);
}

int64_t Transformer::weights_bytes() const {
  return weights_.bytes() + rope_.cosines.bytes() + rope_.sines.bytes() +
         local_rope_.cosines.bytes() + local_rope_.sines.bytes();
}

int64_t Transformer::activations_bytes() const {
  const Activations& a = activations_;
  return a.hidden.bytes() + a.normed.bytes() + a.qkv.bytes() +
         a.attention_output.bytes() + a.gate_up.bytes() + a.mlp.bytes() +
         a.head_input.bytes() + a.logits.bytes() + a.lse.bytes() +
         a.dense_lse.bytes();
}

}  // namespace sparseserve
