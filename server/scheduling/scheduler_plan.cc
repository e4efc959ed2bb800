// How the Scheduler composes one step.

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "server/scheduling/scheduler.h"

namespace sparseserve {
namespace {

// Long prompts that are half-way at the same time: together they would only
// all take longer.
constexpr int kLongPrompts = 2;

bool IsLive(const Runner& runner) {
  return runner.sequence != nullptr && !runner.sequence->ended();
}

bool HasTarget(const Sequence& sequence) {
  return sequence.request().target.time_per_output_token !=
         absl::InfiniteDuration();
}

}  // namespace

struct Scheduler::Turn {
  absl::Time now;
  StepBudget budget;
  // Late work has no more than its share, for there is other work.
  bool is_capped;
  bool may_start = true;
  bool may_start_streams = true;  // those with a target for each token
  int late_tokens = 0;
  int long_prompts = 0;  // half-way
  int long_chunks = 0;   // of the step
  int other_chunks = 0;
  bool others_want = false;  // some that are not long
};

StepPlan Scheduler::PlanStep(absl::Time now) {
  planned_.clear();
  started_.clear();
  preempted_tokens_.clear();
  planned_at_ = now;
  line_.Age(now);
  MarkLateRunners(now);
  GrowLeases(now);
  Turn turn = {.now = now,
               .budget = StepBudget(cost_, options_.max_step_tokens),
               .is_capped = HasMeetable()};
  PlanDueWhole(turn);
  PlanDecodes(turn);
  PlanPrompts(turn);
  if (planned_.empty()) {
    // What can be met waits for what cannot.
    turn.is_capped = false;
    turn.may_start = true;
    PlanPrompts(turn);
  }
  ExtendChunks(turn);
  return FinishTurn(turn);
}

bool Scheduler::HasMeetable() const {
  return line_.meetable() > 0 ||
         std::any_of(running_.begin(), running_.end(), [](const auto& runner) {
           return IsLive(*runner) && !runner->rank.is_late;
         });
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

void Scheduler::PlanDueWhole(Turn& turn) {
  Sequence* const first = SettledFirst(PromptKind::kWhole, turn.now);
  if (first == nullptr ||
      turn.now - first->request().arrival < options_.whole_prompt_patience) {
    return;
  }
  for (const PromptKind kind : {PromptKind::kShort, PromptKind::kLong}) {
    const Sequence* const other = SettledFirst(kind, turn.now);
    if (other != nullptr && line_.RankOf(*other) < line_.RankOf(*first)) return;
  }
  if (HasStreamTarget()) {
    turn.may_start_streams = false;
    return;
  }
  Runner* const runner = TryStart(turn, *first);
  if (runner == nullptr) {
    turn.may_start = false;
    return;
  }
  Plan(turn, *runner, runner->sequence->LeastTokens());
}

void Scheduler::PlanDecodes(Turn& turn) {
  const StepWork before = turn.budget.work();
  absl::Duration least = absl::InfiniteDuration();
  bool has_streams = false;
  for (const auto& runner : running_) {
    if (!IsLive(*runner) || !runner->sequence->is_decoding() ||
        turn.budget.rows_left() == 0) {
      continue;
    }
    Plan(turn, *runner, 1);
    has_streams = true;
    least = std::min(least,
                     runner->sequence->request().target.time_per_output_token);
  }
  decode_work_ = turn.budget.work();
  decode_work_ -= before;
  if (!has_streams) return;
  // What cannot be met with output tokens alone slows no prompts down.
  const bool can_be_met =
      !cost_.is_ready() || cost_.PredictP95(decode_work_) <= least;
  turn.budget.LimitTime(can_be_met ? std::min(least, options_.step_time_target)
                                   : options_.step_time_target);
}

bool Scheduler::GoesBefore(const Rank& a, PromptKind a_kind, const Rank& b,
                           PromptKind b_kind) const {
  const bool a_waits = long_had_all_ && a_kind == PromptKind::kLong;
  const bool b_waits = long_had_all_ && b_kind == PromptKind::kLong;
  if (a.is_late == b.is_late && a.level == b.level && a_waits != b_waits) {
    return b_waits;
  }
  return a < b;
}

void Scheduler::PlanPrompts(Turn& turn) {
  std::vector<Runner*> prompts;
  for (const auto& runner : running_) {
    if (!IsLive(*runner) || runner->sequence->is_decoding()) continue;
    const auto planned = std::find_if(
        planned_.begin(), planned_.end(), [&](const PlannedSlice& slice) {
          return slice.sequence == runner->sequence.get();
        });
    if (planned == planned_.end()) prompts.push_back(runner.get());
  }
  std::sort(prompts.begin(), prompts.end(), [&](Runner* a, Runner* b) {
    return GoesBefore(a->rank, a->kind, b->rank, b->kind);
  });
  turn.long_prompts = static_cast<int>(std::count_if(
      prompts.begin(), prompts.end(),
      [](const Runner* runner) { return runner->kind == PromptKind::kLong; }));
  turn.others_want = turn.long_prompts < static_cast<int>(prompts.size()) ||
                     line_.First(PromptKind::kShort) != nullptr;
  auto next = prompts.begin();
  while (turn.budget.rows_left() > 0) {
    Sequence* const waiting = turn.may_start ? NextToStart(turn) : nullptr;
    const bool starts = waiting != nullptr &&
                        (next == prompts.end() ||
                         GoesBefore(line_.RankOf(*waiting), KindOf(*waiting),
                                    (*next)->rank, (*next)->kind));
    if (starts) {
      // Nothing overtakes what waits for rows, a place or pages.
      const bool has_rows =
          ChunkFor(turn, *waiting, line_.RankOf(*waiting).is_late,
                   KindOf(*waiting)) > 0;
      const Runner* const runner =
          has_rows ? TryStart(turn, *waiting) : nullptr;
      if (runner == nullptr) {
        turn.may_start = false;
      } else {
        if (runner->kind == PromptKind::kLong) ++turn.long_prompts;
        PlanChunk(turn, *runner);
      }
    } else if (next != prompts.end()) {
      if (IsLive(**next)) PlanChunk(turn, **next);
      ++next;
    } else {
      return;
    }
  }
}

int Scheduler::ChunkFor(const Turn& turn, const Sequence& sequence,
                        bool is_late, PromptKind kind) const {
  int most = turn.budget.rows_left();
  if (is_late && turn.is_capped) {
    most = std::min(most, late_share_.allowance() - turn.late_tokens);
  }
  const int least = sequence.LeastTokens();
  if (most < least) return 0;
  // Its pattern has it run all at once, however long that takes.
  if (kind == PromptKind::kWhole && sequence.phase() == Phase::kPrefill) {
    return least;
  }
  int tokens = turn.budget.Fit(sequence, most);
  // The rest is for others first; see ExtendChunks().
  if (kind == PromptKind::kLong) {
    tokens = std::min(tokens,
                      turn.budget.Fit(sequence, std::max(least, tokens / 2)));
  }
  // Something of a prompt runs in each step, or none might ever.
  const bool is_first = turn.long_chunks + turn.other_chunks == 0;
  return tokens == 0 && is_first ? least : tokens;
}

void Scheduler::PlanChunk(Turn& turn, const Runner& runner) {
  const int tokens =
      ChunkFor(turn, *runner.sequence, runner.rank.is_late, runner.kind);
  if (tokens > 0) Plan(turn, runner, tokens);
}

void Scheduler::Plan(Turn& turn, const Runner& runner, int tokens) {
  Sequence& sequence = *runner.sequence;
  turn.budget.Take(sequence, tokens);
  planned_.push_back({&sequence, tokens});
  if (runner.rank.is_late) turn.late_tokens += tokens;
  if (sequence.is_decoding()) return;
  ++(runner.kind == PromptKind::kLong ? turn.long_chunks : turn.other_chunks);
}

void Scheduler::Unplan(Turn& turn, const Runner& runner) {
  const auto planned = std::find_if(
      planned_.begin(), planned_.end(), [&](const PlannedSlice& slice) {
        return slice.sequence == runner.sequence.get();
      });
  if (planned == planned_.end()) return;
  turn.budget.GiveBack(*planned->sequence, planned->tokens);
  if (runner.rank.is_late) turn.late_tokens -= planned->tokens;
  planned_.erase(planned);
}

Sequence* Scheduler::SettledFirst(PromptKind kind, absl::Time now) {
  while (Sequence* const first = line_.First(kind)) {
    if (first->request().cancelled->load(std::memory_order_relaxed)) {
      EndWaiting(line_.Take(*first), Ending::kCancelled, now);
      continue;
    }
    if (MissesDeadline(*first, now)) {
      EndWaiting(line_.Take(*first), Ending::kUnmeetable, now);
      continue;
    }
    if (line_.RankOf(*first).is_late || !IsHopeless(*first, now)) return first;
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

Runner* Scheduler::TryStart(Turn& turn, Sequence& sequence) {
  if ((places() == 0 || !reserve_.Allows(pages_, running_, sequence)) &&
      !MakeRoom(turn, sequence)) {
    return nullptr;
  }
  PageLease lease;
  SPARSESERVE_CHECK(
      pages_.Grow(lease, sequence.pages_for(sequence.tokens_to_run())));
  auto runner = std::make_unique<Runner>();
  runner->rank = line_.RankOf(sequence);
  runner->kind = KindOf(sequence);
  runner->sequence = line_.Take(sequence);
  sequence.Start(std::move(lease), turn.now);
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

bool Scheduler::MakeRoom(Turn& turn, const Sequence& sequence) {
  if (line_.RankOf(sequence).is_late) return false;
  int pages = pages_.free();
  int places = this->places();
  for (const auto& runner : running_) {
    if (!IsLive(*runner) || !runner->rank.is_late) continue;
    pages += runner->sequence->lease().size();
    ++places;
  }
  if (places == 0 || pages < sequence.pages_for(sequence.tokens_to_run())) {
    return false;
  }
  while (this->places() == 0 || !reserve_.Allows(pages_, running_, sequence)) {
    Runner* const victim = ChooseLateVictim(running_);
    if (victim == nullptr) return false;
    Unplan(turn, *victim);
    Preempt(*victim, turn.now);
  }
  return true;
}

void Scheduler::ExtendChunks(Turn& turn) {
  for (PlannedSlice& slice : planned_) {
    if (turn.budget.rows_left() == 0) return;
    const Sequence& sequence = *slice.sequence;
    if (sequence.is_decoding()) continue;
    const auto runner = std::find_if(
        running_.begin(), running_.end(), [&](const auto& candidate) {
          return candidate->sequence.get() == &sequence;
        });
    // Late work keeps to its share; only long prompts left something.
    if ((*runner)->kind != PromptKind::kLong ||
        (turn.is_capped && (*runner)->rank.is_late)) {
      continue;
    }
    turn.budget.GiveBack(sequence, slice.tokens);
    slice.tokens = std::max(slice.tokens,
                            turn.budget.Fit(sequence, turn.budget.rows_left()));
    turn.budget.Take(sequence, slice.tokens);
  }
}

StepPlan Scheduler::FinishTurn(const Turn& turn) {
  // Of what steps may carry: with a share of what this one did, a late prompt
  // would wait for dozens of steps that have room for it.
  if (turn.is_capped) {
    late_share_.Count(options_.max_step_tokens, turn.late_tokens);
  }
  long_had_all_ =
      turn.long_chunks > 0 && turn.other_chunks == 0 && turn.others_want;
  planned_work_ = turn.budget.work();
  MoveEnded();
  prompts_left_ = {};
  for (const auto& runner : running_) {
    const Sequence& sequence = *runner->sequence;
    if (sequence.is_decoding()) continue;
    prompts_left_ += sequence.WorkOf(sequence.tokens_to_run());
  }
  // Output first, whatever was planned first.
  std::stable_partition(planned_.begin(), planned_.end(),
                        [](const PlannedSlice& planned) {
                          return planned.sequence->phase() == Phase::kDecode;
                        });
  StepPlan plan;
  plan.slices.reserve(planned_.size());
  for (const PlannedSlice& planned : planned_) {
    plan.slices.push_back(planned.sequence->Slice(planned.tokens));
  }
  return plan;
}

}  // namespace sparseserve
