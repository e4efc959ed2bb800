#include "server/scheduling/preemption.h"

namespace sparseserve {
namespace {

bool HasProgressed(const Sequence& sequence) {
  return sequence.preemptions() == 0 ||
         sequence.output_since_start() >= kLeastProgress;
}

// Whether `a` is stopped rather than `b`.
bool StopsBefore(const Runner& a, const Runner& b) {
  const bool a_progressed = HasProgressed(*a.sequence);
  const bool b_progressed = HasProgressed(*b.sequence);
  if (a_progressed != b_progressed) return a_progressed;
  if (a.rank.is_late != b.rank.is_late) return a.rank.is_late;
  const int a_priority = a.sequence->request().priority;
  const int b_priority = b.sequence->request().priority;
  if (a_priority != b_priority) return a_priority < b_priority;
  return a.rank.id > b.rank.id;
}

template <typename Allowed>
Runner* Choose(absl::Span<const std::unique_ptr<Runner>> running,
               const Allowed& allowed) {
  Runner* victim = nullptr;
  for (const auto& runner : running) {
    if (runner->sequence == nullptr || runner->sequence->ended() ||
        !runner->sequence->may_preempt() || !allowed(*runner)) {
      continue;
    }
    if (victim == nullptr || StopsBefore(*runner, *victim)) {
      victim = runner.get();
    }
  }
  return victim;
}

bool CanGrow(const Sequence& sequence) {
  return sequence.pages_needed() > sequence.lease().size();
}

}  // namespace

Runner* ChooseVictim(absl::Span<const std::unique_ptr<Runner>> running) {
  return Choose(running, [](const Runner&) { return true; });
}

Runner* ChooseLateVictim(absl::Span<const std::unique_ptr<Runner>> running) {
  return Choose(running, [](const Runner& runner) {
    return runner.rank.is_late && HasProgressed(*runner.sequence);
  });
}

bool PageReserve::Allows(const PagePool& pages,
                         absl::Span<const std::unique_ptr<Runner>> running,
                         const Sequence& next) const {
  const int needed = next.pages_for(next.tokens_to_run());
  if (needed > pages.free()) return false;
  int growing = next.pages_needed() > needed ? 1 : 0;
  bool is_alone = true;
  for (const auto& runner : running) {
    if (runner->sequence == nullptr || runner->sequence->ended()) continue;
    is_alone = false;
    if (CanGrow(*runner->sequence)) ++growing;
  }
  return is_alone || needed + (is_short_ ? 2 : 1) * growing <= pages.free();
}

}  // namespace sparseserve
