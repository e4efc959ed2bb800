#include "engine/pattern/encoder_patterns.h"

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// Windows whose pairs of places make a table of megabytes a head.
constexpr int32_t kMaxSwinWindow = 32;
// Chunks to either side; published models have one on one side.
constexpr int32_t kMaxNeighbours = 64;

struct NameOf {
  std::string_view operator()(const LongformerPattern&) const {
    return "longformer";
  }
  std::string_view operator()(const BigBirdPattern&) const {
    return "big_bird";
  }
  std::string_view operator()(const SwinPattern&) const { return "swin"; }
  std::string_view operator()(const ReformerLshPattern&) const {
    return "reformer_lsh";
  }
  std::string_view operator()(const AxialPattern&) const { return "axial"; }
  std::string_view operator()(const TokenGraphPattern&) const {
    return "token_graph";
  }
  std::string_view operator()(const RoutingPattern&) const { return "routing"; }
  std::string_view operator()(const EtcPattern&) const { return "etc"; }
  std::string_view operator()(const HTransformerPattern&) const {
    return "h_transformer";
  }
};

absl::Status Within(std::string_view parameter, int32_t value, int32_t least,
                    int32_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(parameter, " is ", value, "; allowed: ", least, " to ", most));
}

struct Check {
  absl::Status operator()(const LongformerPattern& pattern) const {
    RETURN_IF_ERROR(Within("longformer: one_sided_window",
                           pattern.one_sided_window, 0, kMaxEncoderTokens));
    for (const int32_t dilation : pattern.dilations) {
      RETURN_IF_ERROR(
          Within("longformer: dilation", dilation, 1, kMaxEncoderTokens));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const BigBirdPattern& pattern) const {
    RETURN_IF_ERROR(Within("big_bird: block_tokens", pattern.block_tokens, 1,
                           kMaxEncoderTokens));
    RETURN_IF_ERROR(Within("big_bird: random_blocks", pattern.random_blocks, 0,
                           kMaxEncoderTokens));
    return Within("big_bird: extra_tokens", pattern.extra_tokens, 0,
                  kMaxEncoderTokens);
  }
  absl::Status operator()(const SwinPattern& pattern) const {
    RETURN_IF_ERROR(Within("swin: window", pattern.window, 1, kMaxSwinWindow));
    return Within("swin: shift", pattern.shift, 0, pattern.window - 1);
  }
  absl::Status operator()(const ReformerLshPattern& pattern) const {
    RETURN_IF_ERROR(Within("reformer_lsh: chunk_tokens", pattern.chunk_tokens,
                           1, kMaxEncoderTokens));
    RETURN_IF_ERROR(Within("reformer_lsh: chunks_before", pattern.chunks_before,
                           0, kMaxNeighbours));
    return Within("reformer_lsh: chunks_after", pattern.chunks_after, 0,
                  kMaxNeighbours);
  }
  absl::Status operator()(const AxialPattern& pattern) const {
    return Within("axial: axis", pattern.axis, 0, kMaxEncoderAxes - 1);
  }
  absl::Status operator()(const TokenGraphPattern& pattern) const {
    for (const int32_t degree : pattern.degrees) {
      RETURN_IF_ERROR(
          Within("token_graph: degree", degree, 0, kMaxEncoderTokens));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const RoutingPattern& pattern) const {
    return Within("routing: capacity", pattern.capacity, 1, kMaxEncoderTokens);
  }
  absl::Status operator()(const EtcPattern& pattern) const {
    RETURN_IF_ERROR(
        Within("etc: radius", pattern.radius, 0, kMaxEncoderTokens));
    return Within("etc: max_distance", pattern.max_distance, 0,
                  (kMaxEtcLabels - 1) / 2);
  }
  absl::Status operator()(const HTransformerPattern& pattern) const {
    return Within("h_transformer: block_tokens", pattern.block_tokens, 1,
                  kMaxEncoderTokens);
  }
};

}  // namespace

std::string_view EncoderPatternName(const EncoderPattern& pattern) {
  return std::visit(NameOf{}, pattern);
}

absl::Status CheckEncoderPattern(const EncoderPattern& pattern) {
  return std::visit(Check{}, pattern);
}

absl::Status CheckSequence(const EncoderPattern& pattern, int64_t tokens,
                           int32_t heads) {
  RETURN_IF_ERROR(CheckEncoderPattern(pattern));
  const std::string_view name = EncoderPatternName(pattern);
  if (tokens < 1 || tokens > kMaxEncoderTokens) {
    return absl::InvalidArgumentError(StrCat(name, ": a sequence of ", tokens,
                                             " tokens; allowed: 1 to ",
                                             kMaxEncoderTokens));
  }
  if (heads < 1 || heads > kMaxEncoderHeads) {
    return absl::InvalidArgumentError(
        StrCat(name, ": ", heads, " heads; allowed: 1 to ", kMaxEncoderHeads));
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
