// Whether time is enough for those whom the Scheduler holds.

#include <algorithm>
#include <optional>

#include "server/scheduling/feasibility.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/scheduler_turn.h"

namespace sparseserve {
namespace {

// What is known of steps is old if none ran for so long.
constexpr absl::Duration kFresh = absl::Seconds(1);
// Late ones that one turn judges anew.
constexpr int kReviews = 4;
// So much is left to settle, of those that go first, when a turn has settled
// what nobody asked for.
constexpr int kSettledFirst = 8;
// While the costs of steps are not known, the first token takes no time.
constexpr FirstTokenEstimate kNothingKnown = {};

}  // namespace

Backlog Scheduler::Ahead(const Rank& rank) const {
  Backlog ahead = line_.Ahead(rank);
  ahead.work += forecast_.PromptsBefore(rank);
  return ahead;
}

bool Scheduler::IsStale(absl::Time now) const {
  return places() == options_.max_running_sequences &&
         now - learned_at_ >= kFresh;
}

bool Scheduler::IsHopeless(const Sequence& sequence, absl::Time now) const {
  const absl::Time target = TargetDeadline(sequence.request());
  if (target == absl::InfiniteFuture() ||
      sequence.progress() == Progress::kDecode) {
    return false;
  }
  if (now > target) return true;
  if (IsStale(now)) return false;
  const auto estimate =
      forecast_.OfWaiting(sequence, {}, /*is_late=*/false, now);
  return estimate.has_value() && now + estimate->expected > target;
}

bool Scheduler::MissesDeadline(const Sequence& sequence, absl::Time now) const {
  if (sequence.preemptions() > 0 || IsStale(now)) return false;
  const Rank rank = line_.RankOf(sequence);
  const auto estimate = forecast_.OfWaiting(
      sequence, {.work = forecast_.PromptsBefore(rank)}, rank.is_late, now);
  return estimate.has_value() &&
         now + LeastTime(sequence.request(), *estimate) >
             sequence.request().deadline;
}

bool Scheduler::IsDoneOnLateShare(const Sequence& sequence,
                                  absl::Time now) const {
  auto estimate = forecast_.OfWaiting(sequence, {}, /*is_late=*/true, now);
  if (!estimate.has_value()) return true;
  const auto others =
      std::count_if(running_.begin(), running_.end(), [](const auto& runner) {
        return IsLive(*runner) && runner->rank.is_late &&
               !runner->sequence->is_decoding();
      });
  estimate->expected *= static_cast<double>(1 + others) /
                        std::max(options_.best_effort_share, 1e-6);
  return now + LeastTime(sequence.request(), *estimate) <=
         sequence.request().deadline;
}

void Scheduler::MarkRunners(absl::Time now) {
  for (const auto& runner : running_) {
    const Sequence& sequence = *runner->sequence;
    if (!sequence.is_decoding() && runner->rises_at <= now) {
      const int64_t periods =
          PeriodsSince(runner->rises_at, now, options_.ageing_period);
      runner->rank.level += periods;
      runner->rises_at += periods * options_.ageing_period;
    }
    const absl::Time target = TargetDeadline(sequence.request());
    if (target == absl::InfiniteFuture()) continue;
    if (sequence.first_token().has_value()) {
      runner->rank.is_late = *sequence.first_token() > target;
      continue;
    }
    const FirstTokenEstimate estimate =
        forecast_.OfRunning(sequence).value_or(kNothingKnown);
    runner->rank.is_late = now + estimate.expected > target;
  }
}

bool Scheduler::StillHolds(Forecast forecast, Sequence& sequence,
                           absl::Time now) const {
  if (!(this->*forecast)(sequence, now)) return false;
  ExpectHit(sequence);
  return (this->*forecast)(sequence, now);
}

void Scheduler::Settle(Sequence& sequence, absl::Time now) {
  if (sequence.request().target.on_miss != OnMiss::kReject ||
      sequence.preemptions() > 0) {
    line_.SetLate(sequence, true);
    return;
  }
  const FirstTokenEstimate estimate =
      forecast_.OfWaiting(sequence, {}, /*is_late=*/false, now)
          .value_or(kNothingKnown);
  sequence.SetPrediction(now - sequence.request().arrival + estimate.p95);
  EndWaiting(line_.Take(sequence), Ending::kUnmeetable, now);
}

void Scheduler::SettleMissed(Turn& turn) {
  while (turn.to_settle > kSettledFirst) {
    Sequence* const missed = line_.FirstMissed(turn.now);
    if (missed == nullptr) return;
    --turn.to_settle;
    Settle(*missed, turn.now);
  }
}

void Scheduler::ReviewLate(absl::Time now) {
  const Sequence* first = nullptr;
  for (int i = 0; i < kReviews; ++i) {
    const Sequence* const late = line_.NextDoubtful(now);
    if (late == nullptr || late == first) return;
    if (first == nullptr) first = late;
    Rank rank = line_.RankOf(*late);
    rank.is_late = false;
    const FirstTokenEstimate estimate =
        forecast_.OfWaiting(*late, Ahead(rank), /*is_late=*/false, now)
            .value_or(kNothingKnown);
    if (now + estimate.expected > TargetDeadline(late->request())) continue;
    line_.SetLate(*late, false);
    if (late == first) first = nullptr;
  }
}

}  // namespace sparseserve
