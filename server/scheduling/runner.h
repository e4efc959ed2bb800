#pragma once

#include <memory>

#include "absl/time/time.h"
#include "server/scheduling/rank.h"
#include "server/scheduling/sequence.h"

namespace sparseserve {

// A sequence that has a place, and pages for all that it has run.
struct Runner {
  std::unique_ptr<Sequence> sequence;
  Rank rank;
  absl::Time rises_at;  // its level, as long as it has no token
  PromptKind kind = PromptKind::kShort;
};

// Whether it still runs: it was neither stopped nor has it ended.
inline bool IsLive(const Runner& runner) {
  return runner.sequence != nullptr && !runner.sequence->ended();
}

}  // namespace sparseserve
