#include "engine/pattern/static_keys.h"

#include <limits>
#include <variant>

namespace sparseserve {
namespace {

constexpr int32_t kNoBound = std::numeric_limits<int32_t>::max();

struct KeysOf {
  const TilePlace& place;

  KeyPredicate operator()(const DensePattern&) const { return {}; }
  // Scores choose from every key.
  KeyPredicate operator()(const XAttentionPattern&) const { return {}; }
  KeyPredicate operator()(const VerticalSlashPattern&) const { return {}; }
  KeyPredicate operator()(const FlexPrefillPattern&) const { return {}; }
  KeyPredicate operator()(const SimilarityGatedPattern&) const { return {}; }
  KeyPredicate operator()(const PeakWeightPattern&) const { return {}; }
  KeyPredicate operator()(const QuestPattern&) const { return {}; }
  KeyPredicate operator()(const PageTopPPattern&) const { return {}; }
  KeyPredicate operator()(const MobaPattern&) const { return {}; }
  KeyPredicate operator()(const PrunedPattern&) const { return {NoKeys()}; }
  KeyPredicate operator()(const DeltaPattern& pattern) const {
    return std::visit(*this, pattern.base);
  }
  // Kernels leave out of it.
  KeyPredicate operator()(const SkipSoftmaxPattern& pattern) const {
    return std::visit(*this, pattern.base);
  }
  KeyPredicate operator()(const SlidingWindowPattern& pattern) const {
    return {.window_tokens = pattern.window_tokens};
  }
  KeyPredicate operator()(const SinkWindowPattern& pattern) const {
    return SinkWindow(pattern.sink_tokens, pattern.window_tokens);
  }
  KeyPredicate operator()(const TriShapePattern& pattern) const {
    if (place.phase == Phase::kDecode) return {};
    if (place.last_prompt_block >= 0 &&
        int64_t{place.query_block} + pattern.dense_blocks >
            place.last_prompt_block) {
      return {};
    }
    return SinkWindow(pattern.sink_tokens, pattern.window_tokens);
  }
  KeyPredicate operator()(const StridedPattern& pattern) const {
    switch (pattern.part) {
      case FactorizedPart::kBoth:
        return {StridedKeys{pattern.stride}};
      case FactorizedPart::kLocal:
        return {.window_tokens = pattern.stride};
      case FactorizedPart::kSummary:
        return {DilatedKeys{pattern.stride, kNoBound}};
    }
    return {};
  }
  KeyPredicate operator()(const FixedPattern& pattern) const {
    if (pattern.part == FactorizedPart::kLocal) {
      return {ChunkKeys{pattern.period_tokens}};
    }
    ColumnKeys keys;
    keys.period = pattern.period_tokens;
    keys.columns = pattern.columns;
    keys.first_column =
        pattern.period_tokens - (pattern.column_group + 1) * pattern.columns;
    keys.sees_period = pattern.part == FactorizedPart::kBoth;
    return {keys};
  }
  KeyPredicate operator()(const DilatedWindowPattern& pattern) const {
    return {DilatedKeys{pattern.dilation, pattern.window_keys}};
  }
  KeyPredicate operator()(const ChunkedLocalPattern& pattern) const {
    return {ChunkKeys{pattern.chunk_tokens}};
  }

  // Without sinks it is a window, which kernels mask for less.
  static KeyPredicate SinkWindow(int32_t sink, int32_t window) {
    if (sink == 0) return {.window_tokens = window};
    return {SinkWindowKeys{sink, window}};
  }
};

}  // namespace

KeyPredicate StaticKeys(const PatternSpec& pattern, const TilePlace& place) {
  return std::visit(KeysOf{place}, pattern);
}

}  // namespace sparseserve
