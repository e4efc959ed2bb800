#include "server/rpc/pattern_to_proto.h"

#include <cstdint>
#include <map>
#include <utility>
#include <variant>
#include <vector>

namespace sparseserve {
namespace {

v1::FactorizedPart ToProto(FactorizedPart part) {
  switch (part) {
    case FactorizedPart::kLocal:
      return v1::FACTORIZED_PART_LOCAL;
    case FactorizedPart::kSummary:
      return v1::FACTORIZED_PART_SUMMARY;
    case FactorizedPart::kBoth:
      return v1::FACTORIZED_PART_BOTH;
  }
  return v1::FACTORIZED_PART_UNSPECIFIED;
}

// What the patterns that choose by scores keep dense.
template <typename Pattern, typename Proto>
void SetDense(const Pattern& pattern, Proto& proto) {
  proto.set_dense_layers(pattern.dense_layers);
  proto.set_last_block_dense(pattern.is_last_block_dense);
}

// What all patterns that choose for output have, and those see in any case.
template <typename Pattern, typename Proto>
void SetReuse(const Pattern& pattern, Proto& proto) {
  proto.set_dense_layers(pattern.dense_layers);
  proto.set_reuse_steps(pattern.reuse_steps);
}
template <typename Pattern, typename Proto>
void SetEnds(const Pattern& pattern, Proto& proto) {
  proto.set_sink_tokens(pattern.sink_tokens);
  proto.set_window_tokens(pattern.window_tokens);
  SetReuse(pattern, proto);
}

// Sets the arm of a pattern, in AttentionPattern or in the base of another.
template <typename Message>
struct ArmSetter {
  Message& proto;

  void operator()(const DensePattern&) const { proto.mutable_dense(); }

  void operator()(const SinkWindowPattern& pattern) const {
    auto& own = *proto.mutable_sink_window();
    own.set_sink_tokens(pattern.sink_tokens);
    own.set_window_tokens(pattern.window_tokens);
  }

  void operator()(const TriShapePattern& pattern) const {
    auto& own = *proto.mutable_tri_shape();
    own.set_sink_tokens(pattern.sink_tokens);
    own.set_window_tokens(pattern.window_tokens);
    own.set_dense_blocks(pattern.dense_blocks);
  }

  void operator()(const XAttentionPattern& pattern) const {
    auto& own = *proto.mutable_xattention();
    own.set_stride(pattern.stride);
    own.set_threshold(pattern.threshold);
    SetDense(pattern, own);
  }

  void operator()(const VerticalSlashPattern& pattern) const {
    auto& own = *proto.mutable_vertical_slash();
    own.set_columns(pattern.columns);
    own.set_diagonals(pattern.diagonals);
    own.set_rows(pattern.rows);
    SetDense(pattern, own);
  }

  void operator()(const FlexPrefillPattern& pattern) const {
    auto& own = *proto.mutable_flex_prefill();
    own.set_gamma(pattern.gamma);
    own.set_tau(pattern.tau);
    own.set_min_budget_tokens(pattern.min_budget_tokens);
    SetDense(pattern, own);
  }

  void operator()(const SimilarityGatedPattern& pattern) const {
    auto& own = *proto.mutable_similarity_gated();
    own.set_similarity(pattern.similarity);
    own.set_threshold(pattern.threshold);
    SetDense(pattern, own);
  }

  void operator()(const PeakWeightPattern& pattern) const {
    auto& own = *proto.mutable_peak_weight();
    own.set_stride(pattern.stride);
    own.set_rows(pattern.rows);
    own.set_threshold(pattern.threshold);
    SetDense(pattern, own);
  }

  void operator()(const QuestPattern& pattern) const {
    auto& own = *proto.mutable_quest();
    own.set_budget_tokens(pattern.budget_tokens);
    SetEnds(pattern, own);
  }

  void operator()(const PageTopPPattern& pattern) const {
    auto& own = *proto.mutable_page_top_p();
    own.set_candidate_tokens(pattern.candidate_tokens);
    own.set_threshold(pattern.threshold);
    SetEnds(pattern, own);
  }

  void operator()(const MobaPattern& pattern) const {
    auto& own = *proto.mutable_moba();
    own.set_block_tokens(pattern.block_tokens);
    own.set_top_k(pattern.top_k);
    SetReuse(pattern, own);
  }
};

// And those that are no base.
struct PatternSetter {
  v1::AttentionPattern& proto;

  template <typename Pattern>
  void operator()(const Pattern& pattern) const {
    ArmSetter<v1::AttentionPattern>{proto}(pattern);
  }

  void operator()(const SlidingWindowPattern& pattern) const {
    proto.mutable_sliding_window()->set_window_tokens(pattern.window_tokens);
  }

  void operator()(const StridedPattern& pattern) const {
    proto.mutable_strided()->set_stride(pattern.stride);
    proto.mutable_strided()->set_part(ToProto(pattern.part));
  }

  void operator()(const FixedPattern& pattern) const {
    v1::FixedPattern& own = *proto.mutable_fixed();
    own.set_period_tokens(pattern.period_tokens);
    own.set_columns(pattern.columns);
    own.set_column_group(pattern.column_group);
    own.set_part(ToProto(pattern.part));
  }

  void operator()(const DilatedWindowPattern& pattern) const {
    proto.mutable_dilated_window()->set_dilation(pattern.dilation);
    proto.mutable_dilated_window()->set_window_keys(pattern.window_keys);
  }

  void operator()(const ChunkedLocalPattern& pattern) const {
    proto.mutable_chunked_local()->set_chunk_tokens(pattern.chunk_tokens);
  }

  void operator()(const PrunedPattern&) const { proto.mutable_pruned(); }

  void operator()(const DeltaPattern& pattern) const {
    v1::DeltaPattern& own = *proto.mutable_delta();
    own.set_gamma(pattern.gamma);
    std::visit([&own](const auto& base) { SetDeltaBase(base, own); },
               pattern.base);
  }

  void operator()(const SkipSoftmaxPattern& pattern) const {
    v1::SkipSoftmaxPattern& own = *proto.mutable_skip_softmax();
    own.set_threshold(pattern.threshold);
    std::visit(
        [&own](const auto& base) {
          ArmSetter<v1::SkipSoftmaxPattern>{own}(base);
        },
        pattern.base);
  }

 private:
  // DeltaPattern has fewer arms than ArmSetter sets.
  template <typename Base>
  static void SetDeltaBase(const Base& base, v1::DeltaPattern& own) {
    v1::AttentionPattern arm;
    ArmSetter<v1::AttentionPattern>{arm}(base);
    if (arm.has_tri_shape()) *own.mutable_tri_shape() = arm.tri_shape();
    if (arm.has_sink_window()) *own.mutable_sink_window() = arm.sink_window();
    if (arm.has_xattention()) *own.mutable_xattention() = arm.xattention();
    if (arm.has_vertical_slash()) {
      *own.mutable_vertical_slash() = arm.vertical_slash();
    }
    if (arm.has_flex_prefill()) {
      *own.mutable_flex_prefill() = arm.flex_prefill();
    }
    if (arm.has_similarity_gated()) {
      *own.mutable_similarity_gated() = arm.similarity_gated();
    }
  }
};

}  // namespace

v1::AttentionPattern ToProto(const PatternSpec& pattern) {
  v1::AttentionPattern proto;
  std::visit(PatternSetter{proto}, pattern);
  return proto;
}

v1::PatternMap ToProto(const PatternMap& map) {
  // Layers whose heads agree share a rule.
  using PatternAndHeads = std::pair<int32_t, std::vector<int32_t>>;
  std::map<PatternAndHeads, std::vector<int32_t>> layers_of;
  for (int32_t layer = 0; layer < map.shape().layers; ++layer) {
    std::map<int32_t, std::vector<int32_t>> heads_of;
    const absl::Span<const int32_t> row = map.Row(layer);
    for (int32_t head = 0; head < static_cast<int32_t>(row.size()); ++head) {
      heads_of[row[head]].push_back(head);
    }
    for (auto& [pattern, heads] : heads_of) {
      layers_of[{pattern, std::move(heads)}].push_back(layer);
    }
  }
  v1::PatternMap proto;
  for (const auto& [key, layers] : layers_of) {
    const PatternSpec& pattern = map.patterns()[key.first];
    if (std::holds_alternative<DensePattern>(pattern)) continue;
    v1::HeadRule& rule = *proto.add_rules();
    *rule.mutable_pattern() = ToProto(pattern);
    if (static_cast<int32_t>(layers.size()) < map.shape().layers) {
      rule.mutable_layers()->Add(layers.begin(), layers.end());
    }
    if (static_cast<int32_t>(key.second.size()) < map.shape().kv_heads) {
      rule.mutable_kv_heads()->Add(key.second.begin(), key.second.end());
    }
  }
  if (proto.rules().empty()) {
    proto.add_rules()->mutable_pattern()->mutable_dense();
  }
  return proto;
}

}  // namespace sparseserve
