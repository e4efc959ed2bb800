#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace sparseserve {

// How far a row's distribution of the next token is from that of the dense run.
struct RowDivergence {
  double divergence = 0;    // KL(dense || row), nats
  bool is_top_same = true;  // the most likely token
  // Of the exponentials of the row's logits: logits[token] - log_sum is the
  // logarithm of what it gives a token.
  double log_sum = 0;
};

// What a dense run says of the token that comes after one row, kept to compare
// other runs' rows with. Immutable; any thread.
class DenseDistribution {
 public:
  // `logits` is [vocab_size], finite, not empty.
  explicit DenseDistribution(absl::Span<const float> logits);

  // `logits` is [vocab_size] of the same row of another run, finite.
  RowDivergence Compare(absl::Span<const float> logits) const;

  // Natural logarithm of what `token` gets.
  double LogProbability(int32_t token) const;

 private:
  std::vector<float> logits_;
  std::vector<float> probabilities_;
  double log_sum_ = 0;  // of the exponentials of logits
  int64_t top_ = 0;
};

}  // namespace sparseserve
