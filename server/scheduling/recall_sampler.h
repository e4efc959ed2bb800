#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "engine/pattern/every_pattern.h"
#include "engine/step.h"
#include "server/policy/pattern_decision.h"

namespace sparseserve {

// What a request's attention kept of the weight of dense attention, over the
// sampled rows, in every layer and query head.
struct RecallEstimate {
  double mean = 1;
  double p5 = 1;  // the smallest value that 5 % do not exceed
  int rows = 0;
};

// Positions of a prompt whose recall is measured, ascending: one drawn from
// each of RecallSampler::kPromptRows equal parts, so that no part and no place
// in a block is preferred; all of a shorter prompt. The same for the same seed.
std::vector<int> RecallRows(int prompt_tokens, uint64_t seed);

// Asks for the recall of one request's rows, slice by slice, and keeps what the
// engine says: rows of the prompt (RecallRows) and every kOutputStride-th of
// the output, the first kMaxOutputRows of these, each where the pattern rules
// the phase. The engine runs these rows densely once more; what it computes of
// them, and of others, is the same to the bit. Serving thread only.
class RecallSampler {
 public:
  static constexpr int kPromptRows = 16;
  static constexpr int kOutputStride = 16;
  // Bounds what is kept of a long output.
  static constexpr int kMaxOutputRows = 64;

  RecallSampler(FollowedHeads heads, int prompt_tokens, uint64_t seed);

  // Sets the slice's recall_rows and recall, which stand until the next call.
  void Ask(StepSlice& slice);
  // Keeps what the latest slice was asked for. REQUIRES: it ran, and well.
  void Take();

  // Of what can be shares: NaN and what lies outside 0 ... 1 by more than
  // rounding is left out. None where nothing
  // is left, so before a row was measured.
  std::optional<RecallEstimate> estimate() const;
  // As measured, of heads that followed a pattern, as PatternSpec::index()
  // counts it.
  absl::Span<const float> shares(int kind) const { return shares_[kind]; }

 private:
  int64_t values_per_row() const;

  const FollowedHeads heads_;
  const int prompt_tokens_;
  std::vector<int> prompt_rows_;  // positions; none where prompts are dense
  int rows_ = 0;                  // taken
  int output_rows_ = 0;           // of these
  std::array<std::vector<float>, kPatternKinds> shares_;
  // Of the slice at hand.
  Phase phase_ = Phase::kPrefill;
  std::vector<int32_t> asked_;
  std::vector<float> answers_;  // [asked_, layers, heads]
};

}  // namespace sparseserve
