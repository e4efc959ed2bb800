#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// Numbers of tokens, each equally likely.
struct LengthRange {
  int least = 0;
  int most = 0;
};

// "N" or "MIN..MAX", 1 to 16,777,216. INVALID_ARGUMENT names the text.
absl::StatusOr<LengthRange> ParseLengthRange(absl::string_view text);

// Requests that ask for the same things. Times are infinite where nothing is
// asked.
struct LoadClass {
  std::string name;
  // Of all requests, relative to the other classes' shares; above 0.
  double share = 1;

  // Latency targets, sent with the request and judged by the client's clock.
  absl::Duration time_to_first_token = absl::InfiniteDuration();
  absl::Duration time_per_output_token = absl::InfiniteDuration();
  absl::Duration total = absl::InfiniteDuration();
  v1::LatencyTarget::OnMiss on_miss = v1::LatencyTarget::ON_MISS_UNSPECIFIED;
  // The gRPC deadline.
  absl::Duration deadline = absl::InfiniteDuration();

  int priority = 0;
  // Empty leaves the choice to the server.
  std::string plan;
  // Instead of the run's lengths.
  std::optional<LengthRange> prompt_tokens;
  std::optional<LengthRange> output_tokens;

  bool HasTargets() const;
  // The target as the API says it; nothing if there is none.
  std::optional<v1::LatencyTarget> Target() const;
};

// "NAME" or "NAME:KEY=VALUE,...", with the keys share, ttft, tpot, total,
// on_miss, deadline, priority, plan, prompt_tokens and output_tokens; such as
// "interactive:share=0.7,ttft=300ms,tpot=50ms". INVALID_ARGUMENT names the key
// and value that cannot be read.
absl::StatusOr<LoadClass> ParseLoadClass(absl::string_view text);

}  // namespace sparseserve
