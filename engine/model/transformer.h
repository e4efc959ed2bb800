#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/attention/attention_plan.h"
#include "engine/attention/attention_profiler.h"
#include "engine/backend/backend.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/model_config.h"
#include "engine/model/model_weights.h"
#include "engine/model/rope_table.h"
#include "engine/model/stage_clock.h"
#include "engine/step.h"
#include "engine/tensor/buffer.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve {

// A decoder of the Llama family (Touvron et al., arXiv 2302.13971) or one of
// its relatives: RMSNorm before each half of a layer, grouped-query attention
// with rotary positions, gated MLP. What differs between families is data of
// ModelConfig, so there is one forward pass. Runs on backend operations alone;
// all its activations are allocated once. One thread.
class Transformer {
 public:
  struct Limits {
    int32_t max_rows = 0;          // that one Forward() may carry
    int32_t max_logit_rows = 0;    // that one Logits() may ask for
    bool measures_recall = false;  // plans may have samples and profiles
  };

  // `backend` outlives the transformer. RESOURCE_EXHAUSTED if the device lacks
  // memory for the activations.
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(
      Backend& backend, const ModelConfig& config, ModelWeights weights,
      const Limits& limits);

  // What a plan for this model is made with.
  static AttentionPlan::Shape PlanShape(const ModelConfig& config);

  // Runs all layers over the plan's rows and stores their keys and values in
  // `cache`; layers that select count their blocks in the plan. The last
  // layer's rows stay for Logits().
  // REQUIRES: 1 <= plan.rows() <= max_rows.
  void Forward(AttentionPlan& plan, const KvCache& cache, StageClock& clock,
               StepTimes& times);

  // Logits of some rows of the last Forward(), [rows.size(), vocab_size], in
  // the order of `rows`, in the host's memory; valid until the next call of
  // either kind. A row's logits are the same to the bit whatever other rows are
  // asked for.
  // REQUIRES: 1 <= rows.size() <= max_logit_rows.
  ConstMatrixView Logits(absl::Span<const int32_t> rows);
  // Likewise, in the device's memory, for Backend::Sample().
  ConstMatrixView DeviceLogits(absl::Span<const int32_t> rows);

  int64_t weights_bytes() const;
  int64_t activations_bytes() const;

 private:
  // `limits` says how many rows of each. The residual stream, logits and LSE
  // are float, the rest as the device likes it.
  struct Activations {
    Buffer hidden;  // [max_rows, hidden]: the residual stream
    Buffer normed;  // [max_rows, hidden]; also a half's result that
                    // is normed before it is added
    // Of layers that compute all of their heads.
    Buffer qkv;               // [max_rows, qkv_columns]
    Buffer attention_output;  // [max_rows, q_columns]
    Buffer gate_up;           // [max_rows, 2 * mlp_hidden]; before, of rows
                              // attended densely once more, [q_columns]
    Buffer mlp;               // [max_rows, mlp_hidden]
    Buffer head_input;        // [max_logit_rows, hidden]
    Buffer logits;            // [max_logit_rows, vocab_size]
    // Where recall is measured. [max_rows, heads]: log-sum-exp of what rows
    // visited, and of all keys.
    Buffer lse;
    Buffer dense_lse;
  };

  Transformer(Backend& backend, const ModelConfig& config, ModelWeights weights,
              const Limits& limits);

  absl::Status BuildRopeTables();
  // Rows between products, in the device's type for them.
  MatrixView Rows(const Buffer& buffer, int64_t rows, int64_t columns) const;
  // [rows, heads], copied if the device has memory of its own.
  const float* OnHost(const float* lse, int32_t heads,
                      std::vector<float>& copy);
  // Where a second attention of this step's rows goes, as wide as the first.
  MatrixView DenseOutput(const AttentionArgs& first) const;
  void AttentionHalf(int32_t layer, AttentionPlan& plan, KvLayerView kv,
                     StageClock& clock, StepTimes& times);
  void RotateAndStore(int32_t layer, const AttentionPlan& plan, KvLayerView kv,
                      MatrixView qkv);
  // Attends the plan's dense rows; the samples' recall of the layer and the
  // corrections follow. `attention` has run, with lse if there are samples.
  void AttendDensely(int32_t layer, const AttentionPlan& plan,
                     const AttentionArgs& attention);
  // Both LSEs are [rows, heads of the layer].
  void MeasureRecall(int32_t layer, const AttentionPlan& plan, const float* lse,
                     const float* dense_lse);
  // Heads that are not computed have lost nothing.
  void SetPrunedRecall(int32_t layer, const AttentionPlan& plan) const;
  // Likewise for the slices' profiles.
  void MeasureProfiles(int32_t layer, const AttentionPlan& plan,
                       const AttentionArgs& attention);
  // The layout of a layer that selects, which the next call replaces.
  const BlockLayout& Select(int32_t layer, AttentionPlan& plan,
                            const AttentionArgs& attention);
  void MlpHalf(const LayerWeights& layer, const AttentionPlan& plan);
  // hidden += weight * input, or += RmsNorm(weight * input) with a post norm.
  void AddHalf(const Weight& weight, ConstMatrixView input,
               const Buffer& post_norm, const AttentionPlan& plan);

  Backend& backend_;
  const ModelConfig config_;
  const Limits limits_;
  const ModelWeights weights_;
  const DType dtype_;  // of rows between products
  RopeTable rope_;
  RopeTable local_rope_;  // empty if no layer turns by it
  Activations activations_;
  // Empty where the device shares the host's memory.
  std::vector<float> host_logits_;  // [max_logit_rows, vocab_size]
  std::vector<float> host_lse_;
  std::vector<float> host_dense_lse_;
  AttentionProfiler profiler_;
  int64_t rows_ = 0;  // of the last Forward()
};

}  // namespace sparseserve
