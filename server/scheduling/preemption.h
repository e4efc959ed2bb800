#pragma once

#include <memory>

#include "absl/types/span.h"
#include "server/scheduling/runner.h"

// Who gives pages back when they run out, and who may take some while they are
// short. The oldest of the highest class that can be met is never stopped while
// it is not alone, so something always comes to its end.

namespace sparseserve {

// Output tokens after which one that was stopped before may be stopped again,
// unless there is nobody else.
inline constexpr int kLeastProgress = 64;

// The youngest of the lowest class, those whose target cannot be met below all;
// one with too little progress only where all others of its class are such.
// Null if none may be stopped.
Runner* ChooseVictim(absl::Span<const std::unique_ptr<Runner>> running);
// Likewise among those whose target cannot be met and that have made progress:
// for one that can be met.
Runner* ChooseLateVictim(absl::Span<const std::unique_ptr<Runner>> running);
// Whether ChooseLateVictim() would come to it.
bool IsLateVictim(const Runner& runner);

// When a sequence may take the pages for what it has to run. Serving thread
// only.
class PageReserve {
 public:
  // From now on more pages must be free, until somebody starts again.
  void Preempted() { is_short_ = true; }
  void Started() { is_short_ = false; }

  // Pages that are to be left when `next` starts: of what runs and `next` one
  // for each that can come to need more, and twice as many while pages are
  // short. With nobody running there is nothing to wait for.
  int Spare(absl::Span<const std::unique_ptr<Runner>> running,
            const Sequence& next) const;
  // Likewise once all of IsLateVictim() were stopped.
  int SpareWithoutLate(absl::Span<const std::unique_ptr<Runner>> running,
                       const Sequence& next) const;

 private:
  template <typename Counted>
  int SpareOf(absl::Span<const std::unique_ptr<Runner>> running,
              const Sequence& next, const Counted& counted) const;

  bool is_short_ = false;
};

}  // namespace sparseserve
