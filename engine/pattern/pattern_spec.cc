#include "engine/pattern/pattern_spec.h"

#include "engine/base/str_cat.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

struct NameOf {
  std::string_view operator()(const DensePattern&) const { return "dense"; }
  std::string_view operator()(const SlidingWindowPattern&) const {
    return "sliding_window";
  }
  std::string_view operator()(const XAttentionPattern&) const {
    return "xattention";
  }
};

absl::Status OutOfRange(std::string_view parameter, double value,
                        std::string_view allowed) {
  return absl::InvalidArgumentError(
      StrCat(parameter, " is ", value, "; allowed: ", allowed));
}

struct Check {
  absl::Status operator()(const DensePattern&) const {
    return absl::OkStatus();
  }
  absl::Status operator()(const SlidingWindowPattern& pattern) const {
    if (pattern.window_tokens >= 1) return absl::OkStatus();
    return OutOfRange("sliding_window: window_tokens", pattern.window_tokens,
                      "1 or more");
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
  PatternTraits operator()(const SlidingWindowPattern&) const {
    return {.is_trained_in = true};
  }
  PatternTraits operator()(const XAttentionPattern&) const {
    return {.chunk_border_tokens = kPageTokens,
            .is_time_predictable = false,
            .rules_decode = false};
  }
};

struct Selection {
  PatternSelection operator()(const DensePattern&) const { return {}; }
  PatternSelection operator()(const SlidingWindowPattern&) const { return {}; }
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
