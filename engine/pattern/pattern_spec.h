#pragma once

// The typed rules of what a query may see. A pattern is data: it knows no
// kernel. To add one, add its struct to the variant; the compiler then finds
// every place that must know it.

#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "engine/layout/selection_rule.h"
#include "engine/pattern/delta_pattern.h"
#include "engine/pattern/selecting_patterns.h"
#include "engine/pattern/skip_softmax_pattern.h"
#include "engine/pattern/static_patterns.h"
#include "engine/step.h"

namespace sparseserve {

using PatternSpec = std::variant<
    DensePattern, SlidingWindowPattern, SinkWindowPattern, TriShapePattern,
    StridedPattern, FixedPattern, DilatedWindowPattern, ChunkedLocalPattern,
    XAttentionPattern, VerticalSlashPattern, FlexPrefillPattern,
    SimilarityGatedPattern, PeakWeightPattern, QuestPattern, PageTopPPattern,
    MobaPattern, PrunedPattern, DeltaPattern, SkipSoftmaxPattern>;

// As in the API, the metrics and the logs: "dense", "sliding_window".
std::string_view PatternName(const PatternSpec& pattern);

// INVALID_ARGUMENT "PATTERN: PARAMETER is VALUE; allowed: RANGE" for the first
// parameter that is out of its range.
absl::Status CheckPattern(const PatternSpec& pattern);

// What the server must know before it lets a slice run with a pattern.
struct PatternTraits {
  // What a prompt block sees depends on tokens up to its end alone. Only such
  // patterns may be chunked and cached.
  bool is_selection_causal = true;
  // A prompt is cut, and a cached prefix ends, at multiples of this; cuts
  // elsewhere are safe, but another choice of blocks than the whole prompt's.
  int32_t chunk_border_tokens = 1;
  bool is_trained_in = false;       // for checkpoints that were trained with it
  bool is_time_predictable = true;  // density does not depend on content
  // Rows visit more keys than the rule names: the whole blocks that hold them.
  bool is_superset = false;
  // In a phase that it does not rule, every key is seen.
  bool rules_prefill = true;
  bool rules_decode = true;
};
PatternTraits TraitsOf(const PatternSpec& pattern);

// The rule by which the rows of a phase choose, and the first layer where they
// do; none if what is seen follows from positions.
struct PatternSelection {
  std::optional<SelectionRule> rule;
  std::optional<Phase> phase = Phase::kPrefill;  // none: of both
  int32_t first_layer = 0;
  bool is_last_block_dense = false;
  int32_t reuse_steps = 1;
};
PatternSelection SelectionOf(const PatternSpec& pattern);

// Which prompt rows are attended densely too, to correct those behind them
// (DeltaPattern).
struct PatternCorrection {
  int32_t every_rows = 0;  // those at its multiples; 0: none
  // Positions alone show every key to the rows before it.
  int64_t first_position = 0;
};
PatternCorrection CorrectionOf(const PatternSpec& pattern);

// BlockLayout::skip_below of a pattern's rows (SkipSoftmaxPattern); kNoSkip of
// all others.
float SkipBelowOf(const PatternSpec& pattern);

}  // namespace sparseserve
