#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/kv/page_pool.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/scheduling/drain_rate.h"
#include "server/scheduling/ending.h"
#include "server/scheduling/feasibility.h"
#include "server/scheduling/late_share.h"
#include "server/scheduling/preemption.h"
#include "server/scheduling/request.h"
#include "server/scheduling/runner.h"
#include "server/scheduling/step_budget.h"
#include "server/scheduling/step_cost_model.h"
#include "server/scheduling/token_sink.h"
#include "server/scheduling/waiting_line.h"

namespace sparseserve {

// Decides which sequences take part in which step; server/README.md has the
// rules. Owns the sequences and the page pool. Pure of I/O, locks and clocks;
// the serving thread is its only caller, in this order:
//
//   Admit, Sweep, TakeEnded, PlanStep, (the step runs), Commit, TakeEnded
class Scheduler {
 public:
  struct Options {
    // Rows (tokens) that one step may carry: max_running_sequences + 63, so
    // that a prompt's page-sized chunk always fits beside the decodes, to
    // 8,192.
    int max_step_tokens = 512;
    int max_running_sequences = 32;  // 1 to 1,024
    int context_tokens = 0;          // of the model; at least 2
    int kv_pages = 0;                // of the engine; at least 1
    // What a step may take while answers are being written; above 0.
    absl::Duration step_time_target = absl::Milliseconds(100);
    // Of the steps' tokens, for what cannot be met while there is other work.
    double best_effort_share = 0.2;  // 0 to 1
    // Waiting so long makes a request more important by one; above 0.
    absl::Duration ageing_period = absl::Seconds(30);
    // Having waited so long, a prompt that may not be cut goes first.
    absl::Duration whole_prompt_patience = absl::Seconds(5);
  };
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
  // the sequences until Commit() or TakeEnded().
  StepPlan PlanStep(absl::Time now);
  // Requests that the latest PlanStep() started for the first time.
  const std::vector<const Request*>& started() const { return started_; }
  // Tokens whose keys and values it gave up, of each sequence that it stopped.
  const std::vector<int>& preempted_tokens() const { return preempted_tokens_; }

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
  const PagePool& pages() const { return pages_; }
  const StepCostModel& cost() const { return cost_; }
  // INTERNAL, naming what is broken: every leased page belongs to exactly one
  // running sequence.
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
  // What is expected of its first token behind `ahead`; nothing as long as
  // nothing is known of steps.
  std::optional<FirstTokenEstimate> Estimate(const Sequence& sequence,
                                             const WaitingLine::Backlog& ahead,
                                             absl::Time now) const;
  // Whether its target cannot be met even if it comes next.
  bool IsHopeless(const Sequence& sequence, absl::Time now) const;
  // Whether its caller will be gone even if it comes next.
  bool MissesDeadline(const Sequence& sequence, absl::Time now) const;
  void MarkLateRunners(absl::Time now);
  void MoveEnded();
  void EndWaiting(std::unique_ptr<Sequence> sequence, Ending ending,
                  absl::Time now);

  // Pages.
  void GrowLeases(absl::Time now);
  void Preempt(Runner& runner, absl::Time now);

  // The step.
  void PlanDecodes(Turn& turn);
  absl::Duration TimeTarget(const StepWork& decodes) const;
  // Starts a prompt that may not be cut and has waited long enough, first of
  // all; or keeps others from starting until it can.
  void PlanDueWhole(Turn& turn);
  void PlanPrompts(Turn& turn);
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
  // The first of its kind that waits and is worth starting, or null.
  Sequence* SettledFirst(PromptKind kind, absl::Time now);
  // The one that waits and goes first, of those that may start; or null.
  Sequence* NextToStart(Turn& turn);
  bool MayStartWhole(const Turn& turn, const Sequence& sequence) const;
  // A place and pages for the first in line, or null.
  Runner* TryStart(Turn& turn, Sequence& sequence);
  // Stops late ones until one that can be met has place and pages; false if
  // that is not enough.
  bool MakeRoom(Turn& turn, const Sequence& sequence);
  int places() const;  // that are free
  // Whether somebody counts on the time of each token.
  bool HasStreamTarget() const;
  bool HasMeetable() const;
  StepPlan FinishTurn(const Turn& turn);

  const Options options_;
  const Tokenizer& tokenizer_;
  const int max_request_tokens_;
  SequenceId next_id_ = 1;
  PagePool pages_;  // outlives the leases of the sequences below
  WaitingLine line_;
  std::vector<std::unique_ptr<Runner>> running_;  // in order of their start
  std::vector<std::unique_ptr<Sequence>> ended_;  // not taken yet
  int preempted_ = 0;

  StepCostModel cost_;
  DrainRate starts_;
  LateShare late_share_;
  PageReserve reserve_;
  // The latest step had rows of prompts for long ones alone.
  bool long_had_all_ = false;

  // Of the latest plan.
  std::vector<PlannedSlice> planned_;  // slice by slice
  std::vector<const Request*> started_;
  std::vector<int> preempted_tokens_;
  StepWork planned_work_;
  StepWork decode_work_;   // its output tokens' part
  StepWork prompts_left_;  // of running prompts when it began
  absl::Time planned_at_;
};

}  // namespace sparseserve
