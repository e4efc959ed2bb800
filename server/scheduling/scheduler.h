#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/kv/page_pool.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/scheduling/ending.h"
#include "server/scheduling/feasibility.h"
#include "server/scheduling/late_share.h"
#include "server/scheduling/page_account.h"
#include "server/scheduling/preemption.h"
#include "server/scheduling/request.h"
#include "server/scheduling/runner.h"
#include "server/scheduling/scheduler_options.h"
#include "server/scheduling/start_forecast.h"
#include "server/scheduling/step_cost_model.h"
#include "server/scheduling/token_sink.h"
#include "server/scheduling/waiting_line.h"

namespace sparseserve {

// Decides which sequences take part in which step; server/README.md has the
// rules. Owns the sequences and the pages. Pure of I/O, locks and clocks;
// the serving thread is its only caller, in this order:
//
//   Admit, Sweep, TakeEnded, PlanStep, (the step runs), Commit, TakeEnded
class Scheduler {
 public:
  using Options = SchedulerOptions;
  // INVALID_ARGUMENT names the option, its value and its range. Borrows
  // `tokenizer`.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(
      const Options& options, const Tokenizer& tokenizer);
  ~Scheduler();

  // Prompt and output tokens that one request can have in all: the context, or
  // what all pages hold if that is less. Longer ones are refused at the door.
  // Any thread.
  int max_request_tokens() const { return max_request_tokens_; }

  // Puts requests in line, or ends those that cannot be met and are to be
  // refused. REQUIRES: each has a prompt of 1 ... max_request_tokens() - 1
  // tokens, of which a step can run all if its pattern's selection is not
  // causal.
  void Admit(std::vector<std::unique_ptr<Request>> requests, absl::Time now);

  // Ends what was cancelled or is past its deadline: pages are free at once.
  // Of what waits, WaitingLine::kPolled are asked in a turn whether they were
  // cancelled; none starts that was.
  void Sweep(absl::Time now);

  // The next step. Without slices only if nothing waits or runs. Borrows from
  // the sequences that it carries until Commit() or until they end.
  StepPlan PlanStep(absl::Time now);
  // Requests that the latest PlanStep() started for the first time.
  const std::vector<const Request*>& started() const { return started_; }
  // Tokens whose keys and values it gave up, of each sequence that it stopped.
  const std::vector<int>& preempted_tokens() const { return preempted_tokens_; }
  // Tokens that those which it started after a stop compute once more, since
  // their pages went to others.
  int64_t recomputed_tokens() const { return recomputed_tokens_; }

  // What a step added to one sequence. Valid until TakeEnded().
  struct Output {
    Sequence* sequence;
    OutputPiece piece;  // may be empty
    std::optional<absl::Duration> token_gap;
  };
  // Takes the result of the latest plan, and gives an output for each of its
  // slices. Sequences that finished, or whose slice failed, have ended. Learns
  // what the step took, from PlanStep() to `now`.
  std::vector<Output> Commit(const StepResult& result, absl::Time now);

  // Ends whatever waits or runs.
  void EndAll(Ending ending, absl::Time now);

  // Hands over the sequences that ended since the last call. Their pages are
  // free already.
  std::vector<std::unique_ptr<Sequence>> TakeEnded();

  bool idle() const { return line_.size() == 0 && running_.empty(); }
  int waiting() const { return line_.size(); }
  // Of these, stopped ones.
  int preempted() const { return preempted_; }
  int running() const { return static_cast<int>(running_.size()); }
  const PagePool& pages() const { return pages_.pool(); }
  // As PageAccount::ForgetAll(). Not between PlanStep() and Commit().
  int ForgetPrefixes() { return pages_.ForgetAll(); }
  // What prompts found since the last call.
  PageAccount::Counts TakePageCounts() { return pages_.TakeCounts(); }
  const StepCostModel& cost() const { return cost_; }
  // INTERNAL, naming what is broken: every page is free, cached or leased by
  // running sequences alone, and one that is written by one of them.
  absl::Status CheckInvariants() const;

 private:
  struct PlannedSlice {
    Sequence* sequence;
    int tokens;
  };
  // How far the composition of one step has come.
  struct Turn;

  Scheduler(const Options& options, const Tokenizer& tokenizer);

  PromptKind KindOf(const Sequence& sequence) const;
  // What goes before one of `rank`, of what waits and of running prompts.
  Backlog Ahead(const Rank& rank) const;
  // Whether nothing runs, and no step has told lately what steps take: then
  // nobody is refused for that, or none might ever teach better.
  bool IsStale(absl::Time now) const;
  // Whether its target cannot be met even if it comes next.
  bool IsHopeless(const Sequence& sequence, absl::Time now) const;
  // Whether its caller will be gone even if it comes next.
  bool MissesDeadline(const Sequence& sequence, absl::Time now) const;
  // Whether a late one can be whole by its caller's deadline on what late work
  // has of each step: if not, it waits for steps that have nothing else to do.
  bool IsDoneOnLateShare(const Sequence& sequence, absl::Time now) const;
  // Whether one of the two holds, also by what its prompt finds by now.
  using Forecast = bool (Scheduler::*)(const Sequence&, absl::Time) const;
  bool StillHolds(Forecast forecast, Sequence& sequence, absl::Time now) const;
  // Whether those that run can be met, and how long prompts have waited.
  void MarkRunners(absl::Time now);
  // Refuses what waits and can be met no more, or marks it.
  void Settle(Sequence& sequence, absl::Time now);
  void SettleMissed(Turn& turn);
  // Clears marks where what stood ahead went away.
  void ReviewLate(absl::Time now);
  void MoveEnded();
  void EndWaiting(std::unique_ptr<Sequence> sequence, Ending ending,
                  absl::Time now);

  // Pages.
  void ExpectHit(Sequence& sequence) const;
  PageAccount::Wish WishOf(const Sequence& sequence) const;
  void GrowLeases(absl::Time now);
  void Preempt(Runner& runner, absl::Time now);

  // The step.
  void PlanDecodes(Turn& turn);
  // Starts a prompt that may not be cut and has waited long enough, first of
  // all; or keeps others from starting until it can.
  void PlanDueWhole(Turn& turn);
  void PlanPrompts(Turn& turn);
  std::vector<Runner*> UnplannedPrompts();
  // A chunk, within the share of late work, for one that has waited long.
  void PlanStarving(Turn& turn);
  Runner* StartStarving(Turn& turn);
  void ExtendChunks(Turn& turn);
  // Tokens of the sequence's next chunk; 0 if there is no room for one.
  int ChunkFor(const Turn& turn, const Sequence& sequence, bool is_late,
               PromptKind kind) const;
  void PlanChunk(Turn& turn, const Runner& runner);
  void Plan(Turn& turn, const Runner& runner, int tokens);
  void Unplan(Turn& turn, const Runner& runner);
  // Whether one of a rank and kind goes before another in this turn.
  bool GoesBefore(const Rank& a, PromptKind a_kind, const Rank& b,
                  PromptKind b_kind) const;
  // The first of its kind that waits and is worth starting, or null; null also
  // where the turn has settled enough.
  Sequence* SettledFirst(PromptKind kind, Turn& turn);
  // Long prompts that are half-way and that one of `rank` must wait for.
  int LongPromptsBefore(const Rank& rank) const;
  // The one that waits and goes first, of those that may start; or null.
  Sequence* NextToStart(Turn& turn);
  bool MayStartWhole(const Turn& turn, const Sequence& sequence) const;
  // A place and pages for the first in line, or null.
  Runner* TryStart(Turn& turn, Sequence& sequence);
  Runner* Start(Sequence& sequence, PageClaim claim, absl::Time now);
  // Pages for it, if there is a place too and enough are left for others.
  std::optional<PageClaim> TryClaim(const Sequence& sequence);
  // Likewise, by stopping late ones for one that can be met; nothing if that is
  // not enough.
  std::optional<PageClaim> MakeRoom(Turn& turn, const Sequence& sequence);
  int places() const;  // that are free
  // Whether somebody counts on the time of each token.
  bool HasStreamTarget() const;
  bool HasMeetable(absl::Time now) const;
  StepPlan FinishTurn(const Turn& turn);

  const Options options_;
  const Tokenizer& tokenizer_;
  const int max_request_tokens_;
  SequenceId next_id_ = 1;
  PageAccount pages_;  // outlives the claims of the sequences below
  WaitingLine line_;
  std::vector<std::unique_ptr<Runner>> running_;  // in order of their start
  std::vector<std::unique_ptr<Sequence>> ended_;  // not taken yet
  int preempted_ = 0;

  StepCostModel cost_;
  absl::Time learned_at_ = absl::InfinitePast();
  StartForecast forecast_;
  LateShare late_share_;
  PageReserve reserve_;
  // The latest step had rows of prompts for long ones alone.
  bool long_had_all_ = false;
  // It held back output tokens, for a prompt that may not be cut.
  bool held_output_ = false;

  // Of the latest plan.
  std::vector<PlannedSlice> planned_;  // slice by slice
  std::vector<const Request*> started_;
  std::vector<int> preempted_tokens_;
  int64_t recomputed_tokens_ = 0;
  StepWork planned_work_;
  absl::Time planned_at_;
};

}  // namespace sparseserve
