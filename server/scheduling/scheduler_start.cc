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
// Having waited so many periods, what cannot be met need not wait for all that
// can.
constexpr int64_t kStarvingPeriods = 2;

bool HasTarget(const Sequence& sequence) {
  return sequence.request().target.time_per_output_token !=
         absl::InfiniteDuration();
}

bool IsCancelled(const Sequence& sequence) {
  return sequence.request().cancelled->load(std::memory_order_relaxed);
}

bool IsStarving(const Sequence& sequence, const Rank& rank) {
  return rank.is_late &&
         rank.level >= sequence.request().priority + kStarvingPeriods;
}

}  // namespace

bool Scheduler::HasStreamTarget() const {
  return std::any_of(running_.begin(), running_.end(), [](const auto& runner) {
    return IsLive(*runner) && HasTarget(*runner->sequence);
  });
}

Sequence* Scheduler::SettledFirst(PromptKind kind, Turn& turn) {
  while (Sequence* const first = line_.FirstInTime(kind, turn.now)) {
    const auto end = [&](Ending ending) {
      EndWaiting(line_.Take(*first), ending, turn.now);
    };
    if (turn.to_settle == 0) return nullptr;
    --turn.to_settle;
    if (IsCancelled(*first)) {
      end(Ending::kCancelled);
    } else if (StillHolds(&Scheduler::MissesDeadline, *first, turn.now)) {
      end(Ending::kUnmeetable);
    } else if (!line_.RankOf(*first).is_late &&
               StillHolds(&Scheduler::IsHopeless, *first, turn.now)) {
      Settle(*first, turn.now);
    } else {
      ++turn.to_settle;
      return first;
    }
  }
  return nullptr;
}

int Scheduler::LongPromptsBefore(const Rank& rank) const {
  return static_cast<int>(
      std::count_if(running_.begin(), running_.end(), [&](const auto& runner) {
        if (!IsLive(*runner) || runner->kind != PromptKind::kLong ||
            runner->sequence->is_decoding()) {
          return false;
        }
        if (runner->rank.is_late != rank.is_late) return rank.is_late;
        return runner->rank.level >= rank.level;
      }));
}

Sequence* Scheduler::NextToStart(Turn& turn) {
  Sequence* best = nullptr;
  PromptKind best_kind = PromptKind::kShort;
  const auto consider = [&](Sequence* sequence, PromptKind kind) {
    if (sequence == nullptr) return;
    if (turn.is_capped && line_.RankOf(*sequence).is_late &&
        !IsDoneOnLateShare(*sequence, turn.now)) {
      return;
    }
    if (best == nullptr || GoesBefore(line_.RankOf(*sequence), kind,
                                      line_.RankOf(*best), best_kind)) {
      best = sequence;
      best_kind = kind;
    }
  };
  consider(SettledFirst(PromptKind::kShort, turn), PromptKind::kShort);
  Sequence* const longer = SettledFirst(PromptKind::kLong, turn);
  if (longer != nullptr &&
      LongPromptsBefore(line_.RankOf(*longer)) < kLongPrompts) {
    consider(longer, PromptKind::kLong);
  }
  Sequence* const whole = SettledFirst(PromptKind::kWhole, turn);
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

Runner* Scheduler::StartStarving(Turn& turn) {
  if (places() == 0) return nullptr;
  for (const PromptKind kind :
       {PromptKind::kShort, PromptKind::kLong, PromptKind::kWhole}) {
    Sequence* const late = line_.FirstLate(kind);
    if (late == nullptr || !IsStarving(*late, line_.RankOf(*late)) ||
        IsCancelled(*late) || MissesDeadline(*late, turn.now) ||
        !IsDoneOnLateShare(*late, turn.now) ||
        (kind == PromptKind::kWhole && !MayStartWhole(turn, *late)) ||
        (!turn.may_start_streams && HasTarget(*late)) ||
        ChunkFor(turn, *late, /*is_late=*/true, kind) == 0) {
      continue;
    }
    std::optional<PageClaim> claim = TryClaim(*late);
    if (claim.has_value()) return Start(*late, *std::move(claim), turn.now);
  }
  return nullptr;
}

void Scheduler::PlanStarving(Turn& turn) {
  if (!turn.is_capped || late_share_.allowance() <= turn.late_tokens) return;
  const Runner* starving = nullptr;
  for (const Runner* const runner : UnplannedPrompts()) {
    if (IsStarving(*runner->sequence, runner->rank) &&
        (starving == nullptr || runner->rank < starving->rank)) {
      starving = runner;
    }
  }
  if (starving == nullptr) starving = StartStarving(turn);
  if (starving != nullptr) PlanChunk(turn, *starving);
}

Runner* Scheduler::TryStart(Turn& turn, Sequence& sequence) {
  std::optional<PageClaim> claim = TryClaim(sequence);
  if (!claim.has_value()) claim = MakeRoom(turn, sequence);
  if (!claim.has_value()) return nullptr;
  return Start(sequence, *std::move(claim), turn.now);
}

Runner* Scheduler::Start(Sequence& sequence, PageClaim claim, absl::Time now) {
  auto runner = std::make_unique<Runner>();
  runner->rank = line_.RankOf(sequence);
  runner->rises_at = line_.RisesAt(sequence);
  runner->sequence = line_.Take(sequence);
  recomputed_tokens_ += sequence.Start(std::move(claim), now);
  runner->kind = KindOf(sequence);
  reserve_.Started();
  if (sequence.preemptions() > 0) {
    --preempted_;
  } else {
    forecast_.Started(now);
    started_.push_back(&sequence.request());
  }
  running_.push_back(std::move(runner));
  return running_.back().get();
}

void Scheduler::ExpectHit(Sequence& sequence) const {
  sequence.ExpectHit(pages_.ExpectedHit({.request = sequence.request(),
                                         .tokens = sequence.tokens(),
                                         .sequence = sequence.id()}));
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

int Scheduler::places() const {
  const auto taken =
      std::count_if(running_.begin(), running_.end(),
                    [](const auto& runner) { return IsLive(*runner); });
  return options_.max_running_sequences - static_cast<int>(taken);
}

std::optional<PageClaim> Scheduler::TryClaim(const Sequence& sequence) {
  if (places() == 0) return std::nullopt;
  return pages_.Start(WishOf(sequence));
}

std::optional<PageClaim> Scheduler::MakeRoom(Turn& turn,
                                             const Sequence& sequence) {
  if (line_.RankOf(sequence).is_late) return std::nullopt;
  std::vector<const PageClaim*> given;
  for (const auto& runner : running_) {
    if (IsLateVictim(*runner)) given.push_back(&runner->sequence->claim());
  }
  PageAccount::Wish wish = WishOf(sequence);
  wish.spare = reserve_.SpareWithoutLate(running_, sequence);
  if (given.empty() || !pages_.CouldStart(wish, given)) return std::nullopt;
  while (Runner* const victim = ChooseLateVictim(running_)) {
    Unplan(turn, *victim);
    Preempt(*victim, turn.now);
    std::optional<PageClaim> claim = TryClaim(sequence);
    if (claim.has_value()) return claim;
  }
  return std::nullopt;
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
      reserve_.Preempted();
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
}

}  // namespace sparseserve
