#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sparseserve {

// Lengths of context for which plans are measured together: those of
// first_block * kPageTokens + 1 tokens to end_block * kPageTokens.
struct LengthBand {
  int first_block = 0;
  int end_block = 0;

  int min_tokens() const;
  int max_tokens() const;
  int blocks() const { return end_block - first_block; }
};

// The bands between neighbours of `borders`, which are tokens. INVALID_ARGUMENT
// unless there are two or more, ascending, multiples of kPageTokens, and none
// is above `context_tokens`.
absl::StatusOr<std::vector<LengthBand>> BandsBetween(
    absl::Span<const int> borders, int context_tokens);

// Of each band `count` blocks, ascending: one drawn from each of as many equal
// parts; all if there are no more. What is drawn for a text follows from the
// seed and its number alone.
std::vector<std::vector<int>> DrawBlocks(const std::vector<LengthBand>& bands,
                                         int count, uint64_t seed, int text);

}  // namespace sparseserve
