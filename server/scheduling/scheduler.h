#pragma once

#include <cstdint>
#include <deque>
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
#include "server/scheduling/request.h"
#include "server/scheduling/token_sink.h"

namespace sparseserve {

class Sequence;

// Decides which sequences take part in which step, first come, first served.
// A sequence starts when the pages that it can come to need are free, so none
// ever waits for pages in the middle. Owns the sequences and the page pool.
// Pure of I/O, locks and clocks; the serving thread is its only caller, in this
// order:
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

  // Puts requests behind those that wait. REQUIRES: each has a prompt of
  // 1 ... max_request_tokens() - 1 tokens, of which a step can run all if its
  // pattern's selection is not causal.
  void Admit(std::vector<std::unique_ptr<Request>> requests);

  // Ends what was cancelled or is past its deadline: pages are free at once.
  void Sweep(absl::Time now);

  // The next step: a token of every decoding sequence, then chunks of prompts
  // in order of arrival. Without slices only if nothing waits or runs. Borrows
  // from the sequences until Commit() or TakeEnded().
  StepPlan PlanStep(absl::Time now);
  // Requests that the latest PlanStep() started.
  const std::vector<const Request*>& started() const { return started_; }

  // What a step added to one sequence. Valid until TakeEnded().
  struct Output {
    Sequence* sequence;
    OutputPiece piece;  // may be empty
    std::optional<absl::Duration> token_gap;
  };
  // Takes the result of the latest plan, and gives an output for each of its
  // slices. Sequences that finished, or whose slice failed, have ended.
  std::vector<Output> Commit(const StepResult& result, absl::Time now);

  // Ends whatever waits or runs.
  void EndAll(Ending ending, absl::Time now);

  // Hands over the sequences that ended since the last call, oldest first.
  // Their pages are free already.
  std::vector<std::unique_ptr<Sequence>> TakeEnded();

  bool idle() const { return waiting_.empty() && running_.empty(); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int running() const { return static_cast<int>(running_.size()); }
  const PagePool& pages() const { return pages_; }
  // INTERNAL, naming what is broken: every leased page belongs to exactly one
  // running sequence.
  absl::Status CheckInvariants() const;

 private:
  struct PlannedSlice {
    Sequence* sequence;
    int tokens;
  };

  Scheduler(const Options& options, const Tokenizer& tokenizer);
  // Adds the sequence's next slice. REQUIRES: the budget is enough for one.
  void AddSlice(Sequence& sequence, StepPlan& plan);
  // Whether a prompt that cannot be cut would hold up somebody who counts on
  // the time of each token.
  bool MustWaitForStreams(const Sequence& sequence) const;
  // Starts the first that waits if its pages and a first chunk fit.
  bool StartNext(StepPlan& plan, absl::Time now);

  const Options options_;
  const Tokenizer& tokenizer_;
  const int max_request_tokens_;
  SequenceId next_id_ = 1;
  PagePool pages_;  // outlives the leases of the sequences below
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of arrival
  std::vector<std::unique_ptr<Sequence>> ended_;    // not taken yet
  // Of the latest plan, slice by slice.
  std::vector<PlannedSlice> planned_;
  int budget_ = 0;
  bool is_half_way_ = false;  // some prompt's chunk is not its last
  std::vector<const Request*> started_;
};

}  // namespace sparseserve
