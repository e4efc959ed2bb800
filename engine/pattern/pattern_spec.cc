#include "engine/pattern/pattern_spec.h"

#include <cmath>
#include <string>
#include <variant>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/block_layout.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

struct NameOf {
  std::string_view operator()(const DensePattern&) const { return "dense"; }
  std::string_view operator()(const SlidingWindowPattern&) const {
    return "sliding_window";
  }
  std::string_view operator()(const SinkWindowPattern&) const {
    return "sink_window";
  }
  std::string_view operator()(const TriShapePattern&) const {
    return "tri_shape";
  }
  std::string_view operator()(const StridedPattern&) const { return "strided"; }
  std::string_view operator()(const FixedPattern&) const { return "fixed"; }
  std::string_view operator()(const DilatedWindowPattern&) const {
    return "dilated_window";
  }
  std::string_view operator()(const ChunkedLocalPattern&) const {
    return "chunked_local";
  }
  std::string_view operator()(const XAttentionPattern&) const {
    return "xattention";
  }
  std::string_view operator()(const VerticalSlashPattern&) const {
    return "vertical_slash";
  }
  std::string_view operator()(const FlexPrefillPattern&) const {
    return "flex_prefill";
  }
  std::string_view operator()(const SimilarityGatedPattern&) const {
    return "similarity_gated";
  }
  std::string_view operator()(const PeakWeightPattern&) const {
    return "peak_weight";
  }
  std::string_view operator()(const QuestPattern&) const { return "quest"; }
  std::string_view operator()(const PageTopPPattern&) const {
    return "page_top_p";
  }
  std::string_view operator()(const MobaPattern&) const { return "moba"; }
  std::string_view operator()(const PrunedPattern&) const { return "pruned"; }
  std::string_view operator()(const DeltaPattern&) const { return "delta"; }
  std::string_view operator()(const SkipSoftmaxPattern&) const {
    return "skip_softmax";
  }
};

template <typename Value>
absl::Status OutOfRange(std::string_view parameter, Value value,
                        std::string_view allowed) {
  return absl::InvalidArgumentError(
      StrCat(parameter, " is ", value, "; allowed: ", allowed));
}

// OK if value >= least.
absl::Status AtLeast(int32_t least, std::string_view parameter, int32_t value) {
  if (value >= least) return absl::OkStatus();
  return OutOfRange(parameter, value, least == 0 ? "0 or more" : "1 or more");
}

// OK for a power of two up to kPageTokens.
absl::Status PowerOfTwo(int32_t least, std::string_view parameter,
                        int32_t value) {
  std::string allowed;
  for (int32_t power = least; power <= kPageTokens; power *= 2) {
    if (value == power) return absl::OkStatus();
    allowed = StrCat(allowed, allowed.empty() ? "" : ", ", power);
  }
  return OutOfRange(parameter, value, allowed);
}

// OK if a share of weight keeps something. Said so that NaN keeps nothing.
absl::Status Share(std::string_view parameter, float value) {
  if (value > 0 && value <= 1) return absl::OkStatus();
  return OutOfRange(parameter, value, "above 0 to 1");
}

struct Check {
  absl::Status operator()(const DensePattern&) const {
    return absl::OkStatus();
  }
  absl::Status operator()(const SlidingWindowPattern& pattern) const {
    return AtLeast(1, "sliding_window: window_tokens", pattern.window_tokens);
  }
  absl::Status operator()(const SinkWindowPattern& pattern) const {
    RETURN_IF_ERROR(
        AtLeast(0, "sink_window: sink_tokens", pattern.sink_tokens));
    return AtLeast(1, "sink_window: window_tokens", pattern.window_tokens);
  }
  absl::Status operator()(const TriShapePattern& pattern) const {
    RETURN_IF_ERROR(AtLeast(0, "tri_shape: sink_tokens", pattern.sink_tokens));
    RETURN_IF_ERROR(
        AtLeast(1, "tri_shape: window_tokens", pattern.window_tokens));
    return AtLeast(0, "tri_shape: dense_blocks", pattern.dense_blocks);
  }
  absl::Status operator()(const StridedPattern& pattern) const {
    return AtLeast(1, "strided: stride", pattern.stride);
  }
  absl::Status operator()(const FixedPattern& pattern) const {
    RETURN_IF_ERROR(AtLeast(1, "fixed: period_tokens", pattern.period_tokens));
    if (pattern.columns < 1 || pattern.columns > pattern.period_tokens) {
      return OutOfRange("fixed: columns", pattern.columns,
                        StrCat("1 to period_tokens, ", pattern.period_tokens));
    }
    const int32_t groups = pattern.period_tokens / pattern.columns;
    if (pattern.column_group < 0 || pattern.column_group >= groups) {
      return OutOfRange(
          "fixed: column_group", pattern.column_group,
          StrCat("0 to period_tokens / columns - 1, ", groups - 1));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const DilatedWindowPattern& pattern) const {
    RETURN_IF_ERROR(AtLeast(1, "dilated_window: dilation", pattern.dilation));
    return AtLeast(1, "dilated_window: window_keys", pattern.window_keys);
  }
  absl::Status operator()(const ChunkedLocalPattern& pattern) const {
    return AtLeast(1, "chunked_local: chunk_tokens", pattern.chunk_tokens);
  }
  absl::Status operator()(const XAttentionPattern& pattern) const {
    RETURN_IF_ERROR(PowerOfTwo(2, "xattention: stride", pattern.stride));
    RETURN_IF_ERROR(Share("xattention: threshold", pattern.threshold));
    return AtLeast(0, "xattention: dense_layers", pattern.dense_layers);
  }
  absl::Status operator()(const VerticalSlashPattern& pattern) const {
    RETURN_IF_ERROR(AtLeast(1, "vertical_slash: columns", pattern.columns));
    RETURN_IF_ERROR(AtLeast(1, "vertical_slash: diagonals", pattern.diagonals));
    if (pattern.rows < 1 || pattern.rows > kPageTokens) {
      return OutOfRange("vertical_slash: rows", pattern.rows,
                        StrCat("1 to ", kPageTokens));
    }
    return AtLeast(0, "vertical_slash: dense_layers", pattern.dense_layers);
  }
  absl::Status operator()(const FlexPrefillPattern& pattern) const {
    RETURN_IF_ERROR(Share("flex_prefill: gamma", pattern.gamma));
    if (!(pattern.tau >= 0) || !std::isfinite(pattern.tau)) {
      return OutOfRange("flex_prefill: tau", pattern.tau, "0 or more");
    }
    RETURN_IF_ERROR(AtLeast(0, "flex_prefill: min_budget_tokens",
                            pattern.min_budget_tokens));
    return AtLeast(0, "flex_prefill: dense_layers", pattern.dense_layers);
  }
  absl::Status operator()(const SimilarityGatedPattern& pattern) const {
    if (!(pattern.similarity >= -1 && pattern.similarity <= 1)) {
      return OutOfRange("similarity_gated: similarity", pattern.similarity,
                        "-1 to 1");
    }
    RETURN_IF_ERROR(Share("similarity_gated: threshold", pattern.threshold));
    return AtLeast(0, "similarity_gated: dense_layers", pattern.dense_layers);
  }
  absl::Status operator()(const PeakWeightPattern& pattern) const {
    RETURN_IF_ERROR(PowerOfTwo(2, "peak_weight: stride", pattern.stride));
    if (pattern.rows < 0 || pattern.rows > kPageTokens) {
      return OutOfRange("peak_weight: rows", pattern.rows,
                        StrCat("0 to ", kPageTokens));
    }
    RETURN_IF_ERROR(Share("peak_weight: threshold", pattern.threshold));
    return AtLeast(0, "peak_weight: dense_layers", pattern.dense_layers);
  }
  absl::Status operator()(const QuestPattern& pattern) const {
    RETURN_IF_ERROR(AtLeast(1, "quest: budget_tokens", pattern.budget_tokens));
    RETURN_IF_ERROR(AtLeast(0, "quest: sink_tokens", pattern.sink_tokens));
    RETURN_IF_ERROR(AtLeast(1, "quest: window_tokens", pattern.window_tokens));
    RETURN_IF_ERROR(AtLeast(0, "quest: dense_layers", pattern.dense_layers));
    return PowerOfTwo(1, "quest: reuse_steps", pattern.reuse_steps);
  }
  absl::Status operator()(const PageTopPPattern& pattern) const {
    RETURN_IF_ERROR(
        AtLeast(1, "page_top_p: candidate_tokens", pattern.candidate_tokens));
    RETURN_IF_ERROR(Share("page_top_p: threshold", pattern.threshold));
    RETURN_IF_ERROR(AtLeast(0, "page_top_p: sink_tokens", pattern.sink_tokens));
    RETURN_IF_ERROR(
        AtLeast(1, "page_top_p: window_tokens", pattern.window_tokens));
    RETURN_IF_ERROR(
        AtLeast(0, "page_top_p: dense_layers", pattern.dense_layers));
    return PowerOfTwo(1, "page_top_p: reuse_steps", pattern.reuse_steps);
  }
  absl::Status operator()(const MobaPattern& pattern) const {
    if (pattern.block_tokens < 1 || pattern.block_tokens % kPageTokens != 0) {
      return OutOfRange("moba: block_tokens", pattern.block_tokens,
                        StrCat("a multiple of ", kPageTokens));
    }
    RETURN_IF_ERROR(AtLeast(1, "moba: top_k", pattern.top_k));
    RETURN_IF_ERROR(AtLeast(0, "moba: dense_layers", pattern.dense_layers));
    return PowerOfTwo(1, "moba: reuse_steps", pattern.reuse_steps);
  }
  absl::Status operator()(const PrunedPattern&) const {
    return absl::OkStatus();
  }
  absl::Status operator()(const DeltaPattern& pattern) const {
    const int32_t gamma = pattern.gamma;
    // Rows that are attended one by one cost more each than those of a tile.
    if (gamma < 8 || gamma > kPageTokens || (gamma & (gamma - 1)) != 0) {
      return OutOfRange("delta: gamma", gamma, "8, 16, 32, 64");
    }
    return Within("delta", std::visit(*this, pattern.base));
  }
  absl::Status operator()(const SkipSoftmaxPattern& pattern) const {
    if (!(pattern.threshold >= 0 && pattern.threshold <= 1)) {
      return OutOfRange("skip_softmax: threshold", pattern.threshold, "0 to 1");
    }
    return Within("skip_softmax", std::visit(*this, pattern.base));
  }

  // What is wrong with the base of a pattern.
  static absl::Status Within(std::string_view pattern, absl::Status base) {
    if (base.ok()) return base;
    return absl::InvalidArgumentError(
        StrCat(pattern, ".", std::string(base.message())));
  }
};

struct Traits {
  PatternTraits operator()(const DensePattern&) const { return {}; }
  PatternTraits operator()(const SinkWindowPattern&) const { return {}; }
  // Which rows are dense follows from the prompt's length, not its content.
  PatternTraits operator()(const TriShapePattern&) const {
    return {.rules_decode = false};
  }
  PatternTraits operator()(const SlidingWindowPattern&) const {
    return {.is_trained_in = true};
  }
  PatternTraits operator()(const StridedPattern&) const {
    return {.is_trained_in = true};
  }
  PatternTraits operator()(const FixedPattern&) const {
    return {.is_trained_in = true};
  }
  PatternTraits operator()(const DilatedWindowPattern&) const {
    return {.is_trained_in = true};
  }
  PatternTraits operator()(const ChunkedLocalPattern&) const {
    return {.is_trained_in = true};
  }
  PatternTraits operator()(const XAttentionPattern&) const {
    return {.chunk_border_tokens = kPageTokens,
            .is_time_predictable = false,
            .rules_decode = false};
  }
  // The last rows choose for those before them. How many blocks the chosen keys
  // and distances lie in depends on which they are.
  PatternTraits operator()(const VerticalSlashPattern&) const {
    return {.is_selection_causal = false,
            .is_time_predictable = false,
            .is_superset = true,
            .rules_decode = false};
  }
  PatternTraits operator()(const FlexPrefillPattern&) const {
    return {.is_selection_causal = false,
            .is_time_predictable = false,
            .is_superset = true,
            .rules_decode = false};
  }
  PatternTraits operator()(const SimilarityGatedPattern&) const {
    return {.chunk_border_tokens = kPageTokens,
            .is_time_predictable = false,
            .rules_decode = false};
  }
  PatternTraits operator()(const PeakWeightPattern&) const {
    return {.chunk_border_tokens = kPageTokens,
            .is_time_predictable = false,
            .rules_decode = false};
  }
  // Scores say which blocks, not how many.
  PatternTraits operator()(const QuestPattern&) const {
    return {.rules_prefill = false};
  }
  PatternTraits operator()(const PageTopPPattern&) const {
    return {.is_time_predictable = false, .rules_prefill = false};
  }
  // A tile visits what any of its rows chose, so it must not be cut.
  PatternTraits operator()(const MobaPattern&) const {
    return {.chunk_border_tokens = kPageTokens,
            .is_time_predictable = false,
            .is_superset = true};
  }
  PatternTraits operator()(const PrunedPattern&) const { return {}; }
  PatternTraits operator()(const DeltaPattern& pattern) const {
    PatternTraits traits = std::visit(*this, pattern.base);
    traits.chunk_border_tokens = kPageTokens;
    return traits;
  }
  // Rows of a tile and heads decide together, so some see what they alone would
  // leave out. What is left out has its scores computed first.
  PatternTraits operator()(const SkipSoftmaxPattern& pattern) const {
    PatternTraits traits = std::visit(*this, pattern.base);
    traits.chunk_border_tokens = kPageTokens;
    traits.is_time_predictable = false;
    traits.is_superset = true;
    traits.rules_prefill = true;
    traits.rules_decode = true;
    return traits;
  }
};

// Rounded up, without a sum that the largest value would overflow.
int32_t WholeBlocks(int32_t tokens) {
  return tokens / kPageTokens + (tokens % kPageTokens != 0);
}

struct Selection {
  // What positions alone say.
  template <typename Static>
  PatternSelection operator()(const Static&) const {
    return {};
  }
  PatternSelection operator()(const XAttentionPattern& pattern) const {
    return {.rule = AntidiagonalRule{pattern.stride, pattern.threshold},
            .first_layer = pattern.dense_layers,
            .is_last_block_dense = pattern.is_last_block_dense};
  }
  PatternSelection operator()(const VerticalSlashPattern& pattern) const {
    return {.rule = VerticalSlashRule{pattern.rows, pattern.columns,
                                      pattern.diagonals},
            .first_layer = pattern.dense_layers,
            .is_last_block_dense = pattern.is_last_block_dense};
  }
  PatternSelection operator()(const FlexPrefillPattern& pattern) const {
    return {.rule = FlexPrefillRule{pattern.gamma, pattern.tau,
                                    WholeBlocks(pattern.min_budget_tokens)},
            .first_layer = pattern.dense_layers,
            .is_last_block_dense = pattern.is_last_block_dense};
  }
  PatternSelection operator()(const SimilarityGatedPattern& pattern) const {
    return {.rule = SimilarityRule{pattern.similarity, pattern.threshold},
            .first_layer = pattern.dense_layers,
            .is_last_block_dense = pattern.is_last_block_dense};
  }
  PatternSelection operator()(const PeakWeightPattern& pattern) const {
    return {
        .rule = PeakWeightRule{pattern.stride, pattern.rows, pattern.threshold},
        .first_layer = pattern.dense_layers,
        .is_last_block_dense = pattern.is_last_block_dense};
  }
  PatternSelection operator()(const QuestPattern& pattern) const {
    return {.rule = PageBoundRule{WholeBlocks(pattern.budget_tokens),
                                  WholeBlocks(pattern.sink_tokens),
                                  WholeBlocks(pattern.window_tokens)},
            .phase = Phase::kDecode,
            .first_layer = pattern.dense_layers,
            .reuse_steps = pattern.reuse_steps};
  }
  PatternSelection operator()(const PageTopPPattern& pattern) const {
    return {.rule = CandidateMassRule{{WholeBlocks(pattern.candidate_tokens),
                                       WholeBlocks(pattern.sink_tokens),
                                       WholeBlocks(pattern.window_tokens)},
                                      pattern.threshold},
            .phase = Phase::kDecode,
            .first_layer = pattern.dense_layers,
            .reuse_steps = pattern.reuse_steps};
  }
  PatternSelection operator()(const MobaPattern& pattern) const {
    return {
        .rule = MeanKeyRule{pattern.block_tokens / kPageTokens, pattern.top_k},
        .phase = std::nullopt,
        .first_layer = pattern.dense_layers,
        .reuse_steps = pattern.reuse_steps};
  }
  PatternSelection operator()(const DeltaPattern& pattern) const {
    return std::visit(*this, pattern.base);
  }
  PatternSelection operator()(const SkipSoftmaxPattern& pattern) const {
    return std::visit(*this, pattern.base);
  }
};

struct FirstHiding {
  int64_t operator()(const TriShapePattern& pattern) const {
    return int64_t{pattern.sink_tokens} + pattern.window_tokens;
  }
  int64_t operator()(const SinkWindowPattern& pattern) const {
    return int64_t{pattern.sink_tokens} + pattern.window_tokens;
  }
  template <typename Selecting>
  int64_t operator()(const Selecting&) const {
    return 0;
  }
};

}  // namespace

std::string_view PatternName(const PatternSpec& pattern) {
  return std::visit(NameOf{}, pattern);
}

absl::Status CheckPattern(const PatternSpec& pattern) {
  return std::visit(Check{}, pattern);
}

PatternTraits TraitsOf(const PatternSpec& pattern) {
  return std::visit(Traits{}, pattern);
}

PatternSelection SelectionOf(const PatternSpec& pattern) {
  return std::visit(Selection{}, pattern);
}

PatternCorrection CorrectionOf(const PatternSpec& pattern) {
  const auto* delta = std::get_if<DeltaPattern>(&pattern);
  if (delta == nullptr) return {};
  return {.every_rows = delta->gamma,
          .first_position = std::visit(FirstHiding{}, delta->base)};
}

float SkipBelowOf(const PatternSpec& pattern) {
  const auto* skip = std::get_if<SkipSoftmaxPattern>(&pattern);
  if (skip == nullptr || skip->threshold == 0) return kNoSkip;
  return std::log(skip->threshold);
}

}  // namespace sparseserve
