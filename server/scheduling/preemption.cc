#include "server/scheduling/preemption.h"

namespace sparseserve {
namespace {

bool HasProgressed(const Sequence& sequence) {
  return sequence.preemptions() == 0 ||
         sequence.output_since_start() >= kLeastProgress;
}

// Below 0 if `a` is of a lower class than `b`, above 0 if of a higher one.
int CompareClasses(const Runner& a, const Runner& b) {
  if (a.rank.is_late != b.rank.is_late) return a.rank.is_late ? -1 : 1;
  return a.sequence->request().priority - b.sequence->request().priority;
}

// Whether `a` is stopped rather than `b`.
bool StopsBefore(const Runner& a, const Runner& b) {
  const int classes = CompareClasses(a, b);
  if (classes != 0) return classes < 0;
  const bool a_progressed = HasProgressed(*a.sequence);
  const bool b_progressed = HasProgressed(*b.sequence);
  if (a_progressed != b_progressed) return a_progressed;
  return a.rank.id > b.rank.id;
}

template <typename Allowed>
Runner* Choose(absl::Span<const std::unique_ptr<Runner>> running,
               const Allowed& allowed) {
  Runner* victim = nullptr;
  for (const auto& runner : running) {
    if (!IsLive(*runner) || !runner->sequence->may_preempt() ||
        !allowed(*runner)) {
      continue;
    }
    if (victim == nullptr || StopsBefore(*runner, *victim)) {
      victim = runner.get();
    }
  }
  return victim;
}

// The oldest of the highest class.
const Runner* FirstOfAll(absl::Span<const std::unique_ptr<Runner>> running) {
  const Runner* first = nullptr;
  for (const auto& runner : running) {
    if (!IsLive(*runner)) continue;
    const int classes = first == nullptr ? 1 : CompareClasses(*runner, *first);
    if (classes > 0 || (classes == 0 && runner->rank.id < first->rank.id)) {
      first = runner.get();
    }
  }
  return first;
}

bool CanGrow(const Sequence& sequence) {
  return sequence.pages_needed() > sequence.lease().size();
}

}  // namespace

Runner* ChooseVictim(absl::Span<const std::unique_ptr<Runner>> running) {
  const Runner* const first = FirstOfAll(running);
  Runner* const victim = Choose(
      running, [first](const Runner& runner) { return &runner != first; });
  if (victim != nullptr) return victim;
  return Choose(running, [](const Runner&) { return true; });
}

bool IsLateVictim(const Runner& runner) {
  return IsLive(runner) && runner.rank.is_late &&
         runner.sequence->may_preempt() && HasProgressed(*runner.sequence);
}

Runner* ChooseLateVictim(absl::Span<const std::unique_ptr<Runner>> running) {
  return Choose(running, IsLateVictim);
}

template <typename Counted>
int PageReserve::SpareOf(absl::Span<const std::unique_ptr<Runner>> running,
                         const Sequence& next, const Counted& counted) const {
  const int needed = next.pages_for(next.tokens_to_run());
  int growing = next.pages_needed() > needed ? 1 : 0;
  bool is_alone = true;
  for (const auto& runner : running) {
    if (!IsLive(*runner) || !counted(*runner)) continue;
    is_alone = false;
    if (CanGrow(*runner->sequence)) ++growing;
  }
  return is_alone ? 0 : (is_short_ ? 2 : 1) * growing;
}

int PageReserve::Spare(absl::Span<const std::unique_ptr<Runner>> running,
                       const Sequence& next) const {
  return SpareOf(running, next, [](const Runner&) { return true; });
}

int PageReserve::SpareWithoutLate(
    absl::Span<const std::unique_ptr<Runner>> running,
    const Sequence& next) const {
  return SpareOf(running, next,
                 [](const Runner& runner) { return !IsLateVictim(runner); });
}

}  // namespace sparseserve
