#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/step.h"

namespace sparseserve {

// Turns a row of logits into a token. The order of operations:
//   1. repetition penalty, over tokens of prompt and output
//   2. presence and frequency penalties, over tokens of the output
//   3. logit bias (a token named twice gets both)
//   4. banned tokens become impossible
//   5. temperature 0: the most likely token, the lowest id among equals; done
//   6. temperature
//   7. top_k, then top_p over what top_k kept, then min_p; equal logits rank
//      by id
//   8. one draw among what is left, in the order of ids
// The draw is a pure function of seed and index of the output token, so it
// depends on neither batch nor step. Log-probabilities are of the row as it
// came. Keeps its memory between calls. One thread.
class Sampler {
 public:
  explicit Sampler(int32_t vocab_size);

  // Fills in token, chosen and alternatives of `result`.
  // INVALID_ARGUMENT names a parameter or token out of range; INTERNAL if a
  // logit is not finite; FAILED_PRECONDITION if no token may be drawn.
  // REQUIRES: logits.size() == vocab_size, slice.sampling is not null.
  absl::Status Sample(absl::Span<const float> logits, const StepSlice& slice,
                      SliceResult& result);

 private:
  struct Candidate {
    float logit = 0;   // after step 4
    float weight = 0;  // exp((logit - largest) / temperature)
    TokenId token = 0;
  };

  // Steps 1 to 4, in adjusted_.
  void Adjust(absl::Span<const float> logits, const StepSlice& slice);
  void ApplyRepetitionPenalty(float penalty, const StepSlice& slice);
  void ApplyOutputPenalties(const SamplingParams& params,
                            absl::Span<const TokenId> output);
  // Steps 6 to 8.
  TokenId Draw(const SamplingParams& params, float largest, uint64_t index);
  // Step 7, from weights_ and their sum, in candidates_.
  void TakeCandidates(const SamplingParams& params, double total);
  // No more than the count-th largest logit.
  float BoundOfTopK(size_t count);
  void KeepTopK(size_t count);
  // Keeps the most likely until their weights reach `mass`.
  void KeepTopP(double mass);
  // Drops the candidates that rank after `last`.
  void DropAfter(const Candidate& last);
  void ReportLogprobs(absl::Span<const float> logits, int alternatives,
                      SliceResult& result);

  const int32_t vocab_size_;
  std::vector<float> adjusted_;         // [vocab_size]
  std::vector<float> weights_;          // [vocab_size]
  std::vector<int32_t> output_counts_;  // [vocab_size], zero between calls
  std::vector<bool> seen_;              // [vocab_size], false between calls
  std::vector<Candidate> candidates_;   // by id; room for vocab_size
  std::vector<Candidate> ranked_;       // scratch; room for vocab_size
  std::vector<float> group_largest_;    // scratch
};

// INTERNAL: the logits at this position of the slice are not finite.
absl::Status NotFiniteError(const StepSlice& slice, int64_t position);
// FAILED_PRECONDITION: every token of the slice is banned.
absl::Status NothingToDrawError(const StepSlice& slice);

}  // namespace sparseserve
