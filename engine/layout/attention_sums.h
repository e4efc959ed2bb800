#pragma once

#include <vector>

#include "absl/types/span.h"

namespace sparseserve {

// What some queries' softmax weights sum to, over all keys that they see.
struct AttentionSums {
  // [keys]: by key.
  std::vector<float> columns;
  // [keys]: by the distance from query to key.
  std::vector<float> diagonals;
};

// Sums of kPageTokens neighbours each, the last of fewer.
void SumBlocks(absl::Span<const float> values, std::vector<float>& blocks);

// Whether every sum is a number: of garbage nobody can tell what is the
// largest.
bool AreFinite(absl::Span<const float> values);

// sqrt(JSD(p, q)) in nats, 0 ... sqrt(ln 2), of the distributions that values
// become when they are divided by their sum. Not a number if one has no sum.
// REQUIRES: equal sizes; no value is negative.
double JensenShannonDistance(absl::Span<const float> p,
                             absl::Span<const float> q);

}  // namespace sparseserve
