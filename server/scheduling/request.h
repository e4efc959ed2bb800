#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/step.h"
#include "server/metrics/metrics.h"
#include "server/policy/pattern_decision.h"
#include "server/scheduling/caller_quotas.h"
#include "server/scheduling/token_sink.h"

namespace sparseserve {

// What to do with a request whose target cannot be met.
enum class OnMiss {
  kDense,    // late but exact: behind all that can be met
  kDegrade,  // likewise, until there is a policy that chooses faster plans
  kReject,   // refuse
};

// What a caller asks of time, from arrival. Infinite where not asked.
struct LatencyTarget {
  absl::Duration time_to_first_token = absl::InfiniteDuration();
  absl::Duration time_per_output_token = absl::InfiniteDuration();
  absl::Duration total = absl::InfiniteDuration();
  OnMiss on_miss = OnMiss::kDense;

  bool is_named() const {
    return time_to_first_token != absl::InfiniteDuration() ||
           time_per_output_token != absl::InfiniteDuration() ||
           total != absl::InfiniteDuration();
  }
};

// Importance: higher goes first.
inline constexpr int kLeastPriority = -100;
inline constexpr int kMostPriority = 100;

// A validated request, in the scheduler's terms. Made on a gRPC thread, handed
// to the serving thread through RequestQueue::Push, which takes ownership.
struct Request {
  std::string id;
  Operation operation = Operation::kStreamGenerate;
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();
  std::vector<TokenId> prompt;  // 1 ... context tokens - 1

  SamplingParams sampling;
  bool seed_was_given = false;
  int max_output_tokens = 0;  // >= 1; prompt + output fits the context
  int min_output_tokens = 0;
  std::vector<std::string> stop_strings;
  std::vector<TokenId> stop_token_ids;
  bool ignore_eos = false;

  // Whose prompts may begin with pages that this one filled, and the other way
  // round: those of the same salt.
  std::string cache_salt;

  LatencyTarget target;
  std::string caller;  // whose quota it uses; empty: nobody's
  std::optional<CallerQuotas::Limits> quota;  // its own, not the queue's
  int priority = 0;  // kLeastPriority ... kMostPriority
  double max_divergence = 0.02;
  PatternDecision attention;
  // Where its prompt is measured, or null. Shared with the caller's side, which
  // reads it once the sink heard the end.
  std::shared_ptr<AttentionProfile> profile;

  // If not none, the recall of some of its rows is measured, head by head.
  std::optional<FollowedHeads> measured;

  // Tokens that it can come to have.
  int64_t most_tokens() const {
    return static_cast<int64_t>(prompt.size()) + max_output_tokens;
  }

  // Set by any thread when the caller has left; read once a step.
  std::shared_ptr<std::atomic<bool>> cancelled =
      std::make_shared<std::atomic<bool>>(false);
  // Where output goes. Shared: the gRPC side may end before the sequence.
  std::shared_ptr<TokenSink> sink;
};

}  // namespace sparseserve
