#include "engine/pattern/pattern_spec.h"

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
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
    const int32_t stride = pattern.stride;
    if (stride < 2 || stride > kPageTokens || (stride & (stride - 1)) != 0) {
      return OutOfRange("xattention: stride", stride, "2, 4, 8, 16, 32, 64");
    }
    // Said so that NaN is out of range too.
    if (!(pattern.threshold > 0 && pattern.threshold <= 1)) {
      return OutOfRange("xattention: threshold", pattern.threshold,
                        "above 0 to 1");
    }
    if (pattern.dense_layers < 0) {
      return OutOfRange("xattention: dense_layers", pattern.dense_layers,
                        "0 or more");
    }
    return absl::OkStatus();
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
};

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

}  // namespace sparseserve
