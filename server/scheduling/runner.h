#pragma once

#include <memory>

#include "server/scheduling/rank.h"
#include "server/scheduling/sequence.h"

namespace sparseserve {

// A sequence that has a place, and pages for all that it has run.
struct Runner {
  std::unique_ptr<Sequence> sequence;
  Rank rank;
  PromptKind kind = PromptKind::kShort;
};

}  // namespace sparseserve
