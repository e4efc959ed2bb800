#pragma once

// From scores of blocks to the blocks of a list. Deterministic: of equal scores
// the one with the lower index goes first.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/layout/layout_builder.h"

namespace sparseserve {

// Whether the element that reaches a mass belongs to the set.
enum class Crossing { kIncluded, kExcluded };

// Chooses elements of a row of scores. Keeps its memory between calls. One
// thread.
class BlockChoice {
 public:
  // Begins a row of `count` elements, none of them chosen.
  void Begin(int64_t count);
  // Chooses one whatever its score is.
  void Force(int64_t index) { chosen_[index] = 1; }

  // Chooses the best until `k` are chosen, forced ones among them.
  // REQUIRES: scores has an element each, none of them NaN.
  void TakeBest(absl::Span<const float> scores, int64_t k);
  // Chooses the best until those chosen have `share` of the sum of all scores;
  // forced ones count first. A share of 1 or more chooses all, and so does a
  // sum that is not finite: garbage must come to light, not be left out.
  // REQUIRES: scores has an element each, none of them negative.
  void TakeMass(absl::Span<const float> scores, float share, Crossing crossing);

  // [count]: 1 if chosen.
  absl::Span<const uint8_t> chosen() const { return chosen_; }
  // Replaces `ranges` with the chosen elements.
  void GetRanges(std::vector<BlockRange>& ranges) const;

 private:
  void ListOthers();

  std::vector<uint8_t> chosen_;
  std::vector<int32_t> others_;  // not chosen yet
};

}  // namespace sparseserve
