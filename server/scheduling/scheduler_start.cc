// Who starts in the Scheduler's step, with which pages, and whose are taken.

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/scheduler_turn.h"

namespace sparseserve {
namespace {

// Long prompts that are half-way at the same time: together they would only
// all take longer.
constexpr int kLongPrompts = 2;

bool HasTarget(const Sequence& sequence) {
  return sequence.request().target.time_per_output_token !=
         absl::InfiniteDuration();
}

}  // namespace

void Scheduler::ExpectHit(Sequence& sequence) const {
  sequence.ExpectHit(pages_.ExpectedHit(WishOf(sequence)));
}

PageAccount::Wish Scheduler::WishOf(const Sequence& sequence) const {
  return {.request = sequence.request(),
          .tokens = sequence.tokens(),
          .pages = sequence.pages_for(sequence.tokens_to_run()),
          .sequence = sequence.id(),
          .spare = reserve_.Spare(running_, sequence),
          .is_restart = sequence.preemptions() > 0,
          .measured_tokens = sequence.counted_tokens()};
}

void Scheduler::GrowLeases(absl::Time now) {
  std::vector<Runner*> short_of_pages;
  for (const auto& runner : running_) {
    Sequence& sequence = *runner->sequence;
    if (sequence.is_decoding() &&
        !pages_.Grow(sequence.claim(), sequence.pages_for(1))) {
      short_of_pages.push_back(runner.get());
    }
  }
  for (Runner* const runner : short_of_pages) {
    while (runner->sequence != nullptr &&
           !pages_.Grow(runner->sequence->claim(),
                        runner->sequence->pages_for(1))) {
      Runner* const victim = ChooseVictim(running_);
      SPARSESERVE_CHECK(victim != nullptr);
      Preempt(*victim, now);
    }
  }
}

void Scheduler::Preempt(Runner& runner, absl::Time now) {
  preempted_tokens_.push_back(runner.sequence->computed_tokens());
  ++preempted_;
  runner.sequence->Preempt();
  // Before what has not begun, of its class.
  Rank rank = runner.rank;
  rank.deadline = absl::InfinitePast();
  ExpectHit(*runner.sequence);
  const PromptKind kind = KindOf(*runner.sequence);
  line_.Add(std::move(runner.sequence), rank, kind, now);
  reserve_.Preempted();
}

bool Scheduler::HasStreamTarget() const {
  return std::any_of(running_.begin(), running_.end(), [](const auto& runner) {
    return IsLive(*runner) && HasTarget(*runner->sequence);
  });
}

int Scheduler::places() const {
  const auto taken =
      std::count_if(running_.begin(), running_.end(),
                    [](const auto& runner) { return IsLive(*runner); });
  return options_.max_running_sequences - static_cast<int>(taken);
}

Sequence* Scheduler::SettledFirst(PromptKind kind, absl::Time now) {
  while (Sequence* const first = line_.First(kind)) {
    if (first->request().cancelled->load(std::memory_order_relaxed)) {
      EndWaiting(line_.Take(*first), Ending::kCancelled, now);
      continue;
    }
    if (StillHolds(&Scheduler::MissesDeadline, *first, now)) {
      EndWaiting(line_.Take(*first), Ending::kUnmeetable, now);
      continue;
    }
    if (line_.RankOf(*first).is_late ||
        !StillHolds(&Scheduler::IsHopeless, *first, now)) {
      return first;
    }
    if (first->request().target.on_miss == OnMiss::kReject &&
        first->preemptions() == 0) {
      EndWaiting(line_.Take(*first), Ending::kUnmeetable, now);
    } else {
      line_.SetLate(*first);
    }
  }
  return nullptr;
}

Sequence* Scheduler::NextToStart(Turn& turn) {
  Sequence* best = nullptr;
  PromptKind best_kind = PromptKind::kShort;
  const auto consider = [&](Sequence* sequence, PromptKind kind) {
    if (sequence == nullptr) return;
    if (best == nullptr || GoesBefore(line_.RankOf(*sequence), kind,
                                      line_.RankOf(*best), best_kind)) {
      best = sequence;
      best_kind = kind;
    }
  };
  consider(SettledFirst(PromptKind::kShort, turn.now), PromptKind::kShort);
  if (turn.long_prompts < kLongPrompts) {
    consider(SettledFirst(PromptKind::kLong, turn.now), PromptKind::kLong);
  }
  Sequence* const whole = SettledFirst(PromptKind::kWhole, turn.now);
  if (whole != nullptr && MayStartWhole(turn, *whole)) {
    consider(whole, PromptKind::kWhole);
  }
  const bool must_wait =
      best != nullptr && !turn.may_start_streams && HasTarget(*best);
  return must_wait ? nullptr : best;
}

bool Scheduler::MayStartWhole(const Turn& turn,
                              const Sequence& sequence) const {
  return sequence.LeastTokens() <= turn.budget.rows_left() &&
         !HasStreamTarget();
}

std::optional<PageClaim> Scheduler::TryClaim(const Sequence& sequence) {
  if (places() == 0) return std::nullopt;
  return pages_.Start(WishOf(sequence));
}

Runner* Scheduler::TryStart(Turn& turn, Sequence& sequence) {
  std::optional<PageClaim> claim = TryClaim(sequence);
  if (!claim.has_value()) claim = MakeRoom(turn, sequence);
  if (!claim.has_value()) return nullptr;
  auto runner = std::make_unique<Runner>();
  runner->rank = line_.RankOf(sequence);
  runner->sequence = line_.Take(sequence);
  recomputed_tokens_ += sequence.Start(*std::move(claim), turn.now);
  runner->kind = KindOf(sequence);
  reserve_.Started();
  if (sequence.preemptions() > 0) {
    --preempted_;
  } else {
    starts_.Count(1, turn.now);
    started_.push_back(&sequence.request());
  }
  running_.push_back(std::move(runner));
  return running_.back().get();
}

std::optional<PageClaim> Scheduler::MakeRoom(Turn& turn,
                                             const Sequence& sequence) {
  if (line_.RankOf(sequence).is_late) return std::nullopt;
  std::vector<const PageClaim*> given;
  for (const auto& runner : running_) {
    if (!IsLive(*runner) || !runner->rank.is_late) continue;
    given.push_back(&runner->sequence->claim());
  }
  if (given.empty() || !pages_.CouldStart(WishOf(sequence), given)) {
    return std::nullopt;
  }
  while (Runner* const victim = ChooseLateVictim(running_)) {
    Unplan(turn, *victim);
    Preempt(*victim, turn.now);
    std::optional<PageClaim> claim = TryClaim(sequence);
    if (claim.has_value()) return claim;
  }
  return std::nullopt;
}

}  // namespace sparseserve
