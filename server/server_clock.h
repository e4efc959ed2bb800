#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace sparseserve {

// The time in which the server counts deadlines and durations: at its start
// that of the wall clock, from then on at the pace of the monotonic one. The
// wall clock can be set back, which would give negative durations and let
// requests outlive their deadlines. Immutable; thread-safe.
class ServerClock {
 public:
  explicit ServerClock(absl::Time wall_time) : start_(wall_time) {}

  absl::Time Now() const {
    return start_ +
           absl::FromChrono(std::chrono::steady_clock::now() - steady_start_);
  }

 private:
  const absl::Time start_;
  const std::chrono::steady_clock::time_point steady_start_ =
      std::chrono::steady_clock::now();
};

}  // namespace sparseserve
