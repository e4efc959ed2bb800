#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/step.h"
#include "server/policy/pattern_decision.h"
#include "server/scheduling/error_reason.h"
#include "server/scheduling/recall_sampler.h"

namespace sparseserve {

// Output that became certain in one step.
struct OutputPiece {
  std::string text;  // valid UTF-8, may be empty
  std::vector<TokenId> token_ids;
  // One per token id if the request asked for log-probabilities, else empty.
  struct Logprobs {
    TokenLogprob chosen;
    std::vector<TokenLogprob> alternatives;
  };
  std::vector<Logprobs> logprobs;
};

enum class FinishReason { kStop, kLength, kStopSequence };

// How a sequence ended well.
struct FinishReport {
  FinishReason reason = FinishReason::kStop;
  std::string matched_stop_string;
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;
  int output_tokens = 0;
  uint64_t seed = 0;

  absl::Duration queue;
  absl::Duration prefill;
  absl::Duration time_to_first_token;
  // As predicted on arrival; none if nothing was known of this machine then.
  std::optional<absl::Duration> predicted_time_to_first_token;
  std::optional<absl::Duration> time_per_output_token;
  absl::Duration total;

  AttentionBlocks prefill_blocks;
  AttentionBlocks decode_blocks;
  std::string plan = kDensePlan;  // as PatternDecision has it
  PatternHeads heads = {};        // that followed each pattern
  FallbackReason fallback = FallbackReason::kNone;
  std::optional<RecallEstimate> recall;  // none if it was not measured
  bool reproducible = true;
};

// Why a request did not end well.
struct Failure {
  absl::Status status;
  ErrorReason reason;
  // When to try again, where that is known better than by the reason.
  std::optional<absl::Duration> retry_after = std::nullopt;
  // Time to first token that was predicted, where that is the reason.
  std::optional<absl::Duration> estimate = std::nullopt;
};

// Receives one request's output. Called by the serving thread; no method may
// block or throw.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // False if the reader is too slow: its buffer is full. The caller then
  // ends the sequence; Fail() follows.
  virtual bool Emit(OutputPiece piece) = 0;
  // Exactly one of these ends the output. A failure goes to the caller.
  virtual void Finish(const FinishReport& report) = 0;
  virtual void Fail(const Failure& failure) = 0;
};

}  // namespace sparseserve
