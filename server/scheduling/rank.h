#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "engine/step.h"

namespace sparseserve {

// Who goes first: the smaller one.
struct Rank {
  // Its target cannot be met: behind all others.
  bool is_late = false;
  // Its priority, and what it gained by waiting.
  int64_t level = 0;
  // Of its first token; the sooner one first.
  absl::Time deadline = absl::InfiniteFuture();
  // In order of arrival.
  SequenceId id = 0;

  friend bool operator<(const Rank& a, const Rank& b) {
    if (a.is_late != b.is_late) return b.is_late;
    if (a.level != b.level) return a.level > b.level;
    if (a.deadline != b.deadline) return a.deadline < b.deadline;
    return a.id < b.id;
  }
};

// Periods that came to their end from `first_end` to `now`. REQUIRES:
// first_end <= now.
inline int64_t PeriodsSince(absl::Time first_end, absl::Time now,
                            absl::Duration period) {
  absl::Duration rest;
  return 1 + absl::IDivDuration(now - first_end, period, &rest);
}

// Prompts that must not stand in each other's way.
enum class PromptKind {
  kShort,  // fits a step
  kLong,   // takes several steps
  kWhole,  // may not be cut
};
inline constexpr int kPromptKinds = 3;

}  // namespace sparseserve
