// How the Scheduler shares one step's rows and time out.

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/base/check.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/scheduler_turn.h"

namespace sparseserve {

StepPlan Scheduler::PlanStep(absl::Time now) {
  planned_.clear();
  started_.clear();
  preempted_tokens_.clear();
  recomputed_tokens_ = 0;
  planned_at_ = now;
  line_.Age(now);
  forecast_.Look(running_, now);
  MarkRunners(now);
  GrowLeases(now);
  Turn turn = {.now = now,
               .budget = StepBudget(cost_, options_.max_step_tokens),
               .is_capped = HasMeetable(now)};
  SettleMissed(turn);
  ReviewLate(now);
  PlanDueWhole(turn);
  PlanDecodes(turn);
  PlanPrompts(turn);
  // What can be met waits for what cannot; nobody waits for what is to settle.
  for (bool again = true; planned_.empty() && again;) {
    turn.is_capped = false;
    turn.may_start = true;
    turn.to_settle = kSettledInATurn;
    SettleMissed(turn);
    PlanPrompts(turn);
    again = turn.to_settle == 0 || line_.FirstMissed(now) != nullptr;
  }
  ExtendChunks(turn);
  return FinishTurn(turn);
}

bool Scheduler::HasMeetable(absl::Time now) const {
  for (const PromptKind kind :
       {PromptKind::kShort, PromptKind::kLong, PromptKind::kWhole}) {
    const Sequence* const first = line_.FirstInTime(kind, now);
    if (first != nullptr && !line_.RankOf(*first).is_late) return true;
  }
  return std::any_of(running_.begin(), running_.end(), [](const auto& runner) {
    return IsLive(*runner) && !runner->rank.is_late;
  });
}

void Scheduler::PlanDueWhole(Turn& turn) {
  // What was held back has its turn first.
  if (held_output_) return;
  Sequence* const first = SettledFirst(PromptKind::kWhole, turn);
  if (first == nullptr ||
      turn.now - first->request().arrival < options_.whole_prompt_patience) {
    return;
  }
  for (const PromptKind kind : {PromptKind::kShort, PromptKind::kLong}) {
    const Sequence* const other = SettledFirst(kind, turn);
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
  held_output_ = false;
  for (const auto& runner : running_) {
    if (!IsLive(*runner) || !runner->sequence->is_decoding()) continue;
    if (turn.budget.rows_left() == 0) {
      held_output_ = true;
      break;
    }
    Plan(turn, *runner, 1);
    ++turn.decodes;
  }
  if (turn.decodes > 0) turn.budget.LimitTime(forecast_.time_limit());
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

std::vector<Runner*> Scheduler::UnplannedPrompts() {
  std::vector<Runner*> prompts;
  for (const auto& runner : running_) {
    if (!IsLive(*runner) || runner->sequence->is_decoding()) continue;
    const auto planned = std::find_if(
        planned_.begin(), planned_.end(), [&](const PlannedSlice& slice) {
          return slice.sequence == runner->sequence.get();
        });
    if (planned == planned_.end()) prompts.push_back(runner.get());
  }
  return prompts;
}

void Scheduler::PlanPrompts(Turn& turn) {
  PlanStarving(turn);
  std::vector<Runner*> prompts = UnplannedPrompts();
  turn.others_want = line_.First(PromptKind::kShort) != nullptr;
  for (Runner* const runner : prompts) {
    // Steps have had less room since it started.
    if (runner->kind == PromptKind::kShort) {
      runner->kind = KindOf(*runner->sequence);
    }
    if (runner->kind != PromptKind::kLong) turn.others_want = true;
  }
  std::sort(prompts.begin(), prompts.end(), [&](Runner* a, Runner* b) {
    return GoesBefore(a->rank, a->kind, b->rank, b->kind);
  });
  auto next = prompts.begin();
  while (turn.budget.rows_left() > 0) {
    Sequence* const waiting = turn.may_start ? NextToStart(turn) : nullptr;
    const bool starts =
        waiting != nullptr &&
        (next == prompts.end() ||
         GoesBefore(line_.RankOf(*waiting), line_.KindOf(*waiting),
                    (*next)->rank, (*next)->kind));
    if (starts) {
      // Nothing overtakes what waits for rows, a place or pages.
      const bool has_rows =
          ChunkFor(turn, *waiting, line_.RankOf(*waiting).is_late,
                   line_.KindOf(*waiting)) > 0;
      const Runner* const runner =
          has_rows ? TryStart(turn, *waiting) : nullptr;
      if (runner == nullptr) {
        turn.may_start = false;
      } else {
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
  return tokens == 0 && is_first ? sequence.ShortestTokens() : tokens;
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
  // Of what the step had room for: with a share of what it did, a late prompt
  // would wait for dozens of steps that have room for it.
  if (turn.is_capped) {
    late_share_.Count(std::min(options_.max_step_tokens,
                               turn.decodes + forecast_.prompt_rows()),
                      turn.late_tokens);
  }
  long_had_all_ =
      turn.long_chunks > 0 && turn.other_chunks == 0 && turn.others_want;
  planned_work_ = turn.budget.work();
  MoveEnded();
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
