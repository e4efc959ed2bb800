#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve {

// What labels add to the scores of some rows, after their scaling; pairs of a
// row and a key have one each.
struct EtcLabelScores {
  int32_t labels = 0;
  std::vector<float> scores;  // [rows, heads, labels]
};

// A table of labels, each with a key of its own and a bias in every head.
struct EtcLabelTable {
  ConstMatrixView keys;            // [labels, heads * head_dim]
  absl::Span<const float> biases;  // [labels, heads]
};

// (query * label's key + label's bias) * scale for every row of `queries`,
// [rows, heads * head_dim]. Sums are double. INVALID_ARGUMENT names what does
// not fit, or comes to a score that is no finite float.
absl::StatusOr<EtcLabelScores> ScoreEtcLabels(const ConstMatrixView& queries,
                                              const EtcLabelTable& table,
                                              int32_t heads, float scale);

// What a pattern of ETC is applied to: a global sequence and a long one.
struct EtcTokens {
  int32_t heads = 0;
  int32_t global_tokens = 0;  // 0 or more
  // [long]: equal for the tokens of a segment, which see no others of the long
  // sequence; negative for padding, which nobody sees.
  std::vector<int32_t> segments;
  // [long, global] and [global, long]: the label of what is seen, -1 of what is
  // not.
  std::vector<int32_t> long_to_global;
  std::vector<int32_t> global_to_long;
  // Of long rows, and of global rows. Among themselves pairs have the label of
  // their distance: 0, then up to max_distance to the right, then to the left.
  EtcLabelScores long_labels;
  EtcLabelScores global_labels;
};

// Which projections a piece of attention takes: whose rows, to whose keys.
enum class EtcPiece : int32_t {
  kLongToLong,
  kLongToGlobal,
  kGlobalToGlobal,
  kGlobalToLong
};

// A pass for each piece, whose projection is the piece's number; models whose
// pieces share projections name them again. Tokens are the global ones, then
// the long ones. A row's two pieces share one softmax. Labels make biases of
// every head and row of its own, so lists are not shared. INVALID_ARGUMENT
// names what does not fit, or is not finite.
absl::StatusOr<AttentionPasses> EtcPasses(const EtcPattern& pattern,
                                          const EtcTokens& tokens);

}  // namespace sparseserve
