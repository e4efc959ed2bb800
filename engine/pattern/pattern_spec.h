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
#include "engine/pattern/static_patterns.h"

namespace sparseserve {

// Of every prompt block's keys, the blocks whose antidiagonal scores carry most
// of the weight, the first block and its own (XAttention: AntidiagonalRule of
// layout/selection_rule.h). Decode rows, and layers that the checkpoint gives a
// window, see every key that they may.
struct XAttentionPattern {
  int32_t stride = 8;  // a power of two, 2 ... 64; cost is 1 / stride of QK
  float threshold = 0.95f;   // share of the weight, above 0 to 1
  int32_t dense_layers = 2;  // the first so many layers see every key
  // The prompt's last query block, which the first token comes from, sees every
  // key.
  bool is_last_block_dense = true;
  friend bool operator==(const XAttentionPattern&,
                         const XAttentionPattern&) = default;
};

using PatternSpec =
    std::variant<DensePattern, SlidingWindowPattern, SinkWindowPattern,
                 TriShapePattern, StridedPattern, FixedPattern,
                 DilatedWindowPattern, ChunkedLocalPattern, XAttentionPattern>;

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
  // In a phase that it does not rule, every key is seen.
  bool rules_prefill = true;
  bool rules_decode = true;
};
PatternTraits TraitsOf(const PatternSpec& pattern);

// The rule by which prompt blocks choose, and the first layer that does; none
// if what is seen follows from positions.
struct PatternSelection {
  std::optional<SelectionRule> rule;
  int32_t first_layer = 0;
  bool is_last_block_dense = false;
};
PatternSelection SelectionOf(const PatternSpec& pattern);

}  // namespace sparseserve
