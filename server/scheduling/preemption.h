#pragma once

#include <memory>

#include "absl/types/span.h"
#include "engine/kv/page_pool.h"
#include "server/scheduling/runner.h"

// Who gives pages back when they run out, and who may take some while they are
// short. Runs follow each other: the oldest of the highest class is never
// stopped while it is not alone, so something always comes to its end.

namespace sparseserve {

// Output tokens after which one that was stopped before may be stopped again,
// unless there is nobody else.
inline constexpr int kLeastProgress = 64;

// The youngest of the lowest class, those whose target cannot be met below all;
// one with too little progress only where all others are such. Null if none may
// be stopped.
Runner* ChooseVictim(absl::Span<const std::unique_ptr<Runner>> running);
// Likewise among those whose target cannot be met and that have made progress:
// for one that can be met.
Runner* ChooseLateVictim(absl::Span<const std::unique_ptr<Runner>> running);

// When a sequence may take the pages for what it has to run. Serving thread
// only.
class PageReserve {
 public:
  // From now on more pages must be free, until somebody starts again.
  void Preempted() { is_short_ = true; }
  void Started() { is_short_ = false; }

  // Whether enough pages stay free for what runs and `next`, of those that can
  // come to need more one each, and twice as many while pages are short. With
  // nobody running there is nothing to wait for.
  bool Allows(const PagePool& pages,
              absl::Span<const std::unique_ptr<Runner>> running,
              const Sequence& next) const;

 private:
  bool is_short_ = false;
};

}  // namespace sparseserve
