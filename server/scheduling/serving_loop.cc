#include "server/scheduling/serving_loop.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/check.h"
#include "server/scheduling/ending.h"
#include "server/scheduling/sequence.h"

namespace sparseserve {
namespace {

// An idle loop turns this often, to show that it lives.
constexpr absl::Duration kHeartbeat = absl::Milliseconds(100);

// What the plan and its result say; times and tokens are the caller's to add.
StepSample Summarize(const StepPlan& plan, const StepResult& result) {
  StepSample sample;
  sample.times = result.times;
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const StepSlice& slice = plan.slices[i];
    const bool prefill = slice.phase == Phase::kPrefill;
    ++(prefill ? sample.prefill_requests : sample.decode_requests);
    (prefill ? sample.prefill_tokens : sample.decode_tokens) +=
        static_cast<int>(slice.tokens.size());
    AttentionBlocks& blocks =
        prefill ? sample.prefill_blocks : sample.decode_blocks;
    blocks.computed += result.slices[i].blocks.computed;
    blocks.allowed += result.slices[i].blocks.allowed;
  }
  return sample;
}

void AddHeads(const PatternDecision& attention, Phase phase,
              StepSample& sample) {
  const int p = static_cast<int>(phase);
  for (int kind = 0; kind < kPatternKinds; ++kind) {
    sample.heads[p][kind] += attention.heads[p][kind];
  }
}

// Counts a target once its outcome is known: `final` where `actual` is what it
// came to, else `actual` has been reached and grows.
void RecordTarget(Metrics& metrics, TargetKind kind, absl::Duration target,
                  absl::Duration actual, bool final) {
  if (target == absl::InfiniteDuration()) return;
  const bool met = actual <= target;
  if (final || !met) metrics.TargetOutcome(kind, met);
}

void RecordTargets(Metrics& metrics, const LatencyTarget& target,
                   const RequestSample& sample, bool finished) {
  const bool has_token = sample.time_to_first_token != absl::InfiniteDuration();
  RecordTarget(
      metrics, TargetKind::kTimeToFirstToken, target.time_to_first_token,
      has_token ? sample.time_to_first_token : sample.total, has_token);
  RecordTarget(metrics, TargetKind::kTotal, target.total, sample.total,
               finished);
  if (finished && sample.time_per_output_token != absl::InfiniteDuration()) {
    RecordTarget(metrics, TargetKind::kTimePerOutputToken,
                 target.time_per_output_token, sample.time_per_output_token,
                 finished);
  }
}

}  // namespace

ServingLoop::ServingLoop(Dependencies dependencies)
    : d_(std::move(dependencies)) {}

ServingLoop::~ServingLoop() { Stop(); }

void ServingLoop::Start() {
  SPARSESERVE_CHECK(!thread_.joinable());
  last_turn_ns_ = absl::ToUnixNanos(d_.clock());
  {
    MutexLock lock(mu_);
    takes_flushes_ = true;
  }
  thread_ = std::thread([this] {
    Run();
    EndFlushes();
  });
}

void ServingLoop::Drain(absl::Time deadline) {
  drain_deadline_ns_ = absl::ToUnixNanos(deadline);
  draining_ = true;
  d_.queue.Wake();
  if (thread_.joinable()) thread_.join();
}

void ServingLoop::Stop() {
  d_.queue.StartDraining();
  stop_ = true;
  d_.queue.Wake();
  if (thread_.joinable()) thread_.join();
}

void ServingLoop::FlushPrefixCache(Flushed done) {
  {
    MutexLock lock(mu_);
    if (takes_flushes_) {
      flushes_.push_back(std::move(done));
      done = nullptr;
    }
  }
  if (done == nullptr) return d_.queue.Wake();
  done(absl::UnavailableError("the server is shutting down"));
}

void ServingLoop::Flush() {
  std::vector<Flushed> flushes;
  {
    MutexLock lock(mu_);
    flushes.swap(flushes_);
  }
  for (const Flushed& done : flushes) done(d_.scheduler.ForgetPrefixes());
}

void ServingLoop::EndFlushes() {
  std::vector<Flushed> flushes;
  {
    MutexLock lock(mu_);
    takes_flushes_ = false;
    flushes.swap(flushes_);
  }
  for (const Flushed& done : flushes) {
    done(absl::UnavailableError("the server is shutting down"));
  }
}

absl::Time ServingLoop::last_turn() const {
  return absl::FromUnixNanos(last_turn_ns_);
}

void ServingLoop::Run() {
  int idle_turns = 0;
  while (true) {
    // Both are read before the queue is emptied. The queue refused before they
    // were set, so nothing can arrive after the last look.
    const bool stopping = stop_;
    const bool draining = draining_;
    std::vector<std::unique_ptr<Request>> arrived = d_.queue.TakeAll();
    // Read after the queue was emptied: nothing starts before it arrived.
    const absl::Time now = d_.clock();
    d_.scheduler.Admit(std::move(arrived), now);
    last_turn_ns_ = absl::ToUnixNanos(now);
    Flush();
    if (stopping ||
        (draining && now >= absl::FromUnixNanos(drain_deadline_ns_))) {
      d_.scheduler.EndAll(Ending::kDraining, now);
    } else {
      d_.scheduler.Sweep(now);
    }
    ReportEnded();

    // What came before is no part of the step: its time teaches what steps
    // cost.
    const absl::Time begin = d_.clock();
    const StepPlan plan = d_.scheduler.PlanStep(begin);
    for (const Request* request : d_.scheduler.started()) {
      d_.queue.Started(*request, begin);
    }
    // What was refused while the step was planned need not wait for it.
    ReportEnded();
    PublishGauges();
    SPARSESERVE_DCHECK(d_.scheduler.CheckInvariants().ok());
    if (!plan.slices.empty()) {
      if (!RunStep(plan, begin)) return;
      idle_turns = 0;
      continue;
    }
    SPARSESERVE_CHECK(d_.scheduler.idle());
    const bool ends = stopping || draining;
    // Once nobody came for a while: it takes milliseconds where pages are many.
    if (++idle_turns == 2 || ends) {
      SPARSESERVE_CHECK(d_.scheduler.CheckInvariants().ok());
    }
    if (ends) return;
    d_.queue.WaitForWork(kHeartbeat);
  }
}

bool ServingLoop::RunStep(const StepPlan& plan, absl::Time begin) {
  const absl::StatusOr<StepResult> result = d_.executor.Step(plan);
  if (!result.ok()) {
    FailDevice(result.status());
    return false;
  }
  const absl::Time end = d_.clock();
  SPARSESERVE_CHECK(result->slices.size() == plan.slices.size());
  StepSample sample = Summarize(plan, *result);
  sample.duration = end - begin;
  sample.preemptions = static_cast<int>(d_.scheduler.preempted_tokens().size());
  sample.recomputed_tokens = d_.scheduler.recomputed_tokens();
  std::vector<absl::Duration> token_gaps;

  std::vector<Scheduler::Output> outputs = d_.scheduler.Commit(*result, end);
  for (size_t i = 0; i < outputs.size(); ++i) {
    Scheduler::Output& output = outputs[i];
    OutputPiece& piece = output.piece;
    AddHeads(output.sequence->request().attention, plan.slices[i].phase,
             sample);
    sample.generated_tokens += static_cast<int>(piece.token_ids.size());
    if (output.token_gap.has_value()) token_gaps.push_back(*output.token_gap);
    if (piece.text.empty() && piece.token_ids.empty()) continue;
    if (!output.sequence->request().sink->Emit(std::move(piece))) {
      output.sequence->End(Ending::kSlowConsumer, end);
    }
  }
  sample.token_gaps = token_gaps;
  d_.metrics.Step(sample);
  d_.load.AddBlocks(sample.prefill_blocks);
  d_.load.AddBlocks(sample.decode_blocks);
  const StepCosts costs = d_.scheduler.cost().costs();
  d_.metrics.SetStepCosts({costs.constant, costs.decode_row, costs.prompt_row,
                           costs.decode_block, costs.prompt_block});
  ReportEnded();
  return true;
}

void ServingLoop::FailDevice(const absl::Status& status) {
  d_.queue.StartDraining();
  std::vector<std::unique_ptr<Request>> arrived = d_.queue.TakeAll();
  const absl::Time now = d_.clock();
  d_.scheduler.Admit(std::move(arrived), now);
  d_.scheduler.EndAll(Ending::kDeviceFailed, now);
  ReportEnded();
  d_.on_device_failure(status);
}

void ServingLoop::ReportEnded() {
  const std::vector<std::unique_ptr<Sequence>> ended = d_.scheduler.TakeEnded();
  if (ended.empty()) return;
  const absl::Time now = d_.clock();
  for (const auto& sequence : ended) {
    if (sequence->progress() == Progress::kWaiting) {
      d_.queue.Dropped(sequence->request());
    }
    d_.queue.Finished(sequence->request());
    RecordEnding(*sequence);
  }
  PublishGauges();
  for (const auto& sequence : ended) {
    TokenSink& sink = *sequence->request().sink;
    if (sequence->ending() == Ending::kFinished) {
      sink.Finish(sequence->Report());
    } else {
      Failure failure = FailureOf(sequence->ending(), sequence->progress());
      if (IsRefusal(sequence->ending())) {
        failure.estimate = sequence->predicted_time_to_first_token();
        failure.retry_after = d_.queue.RetryAfter(now);
      }
      sink.Fail(failure);
    }
  }
}

void ServingLoop::RecordEnding(const Sequence& sequence) {
  const Ending ending = sequence.ending();
  if (IsRefusal(ending)) {
    d_.metrics.Rejected(RejectReason::kDeadlineUnmeetable);
    // On arrival none has passed; of those that it waited past it is no less
    // missed for being refused at last.
    RequestSample waited;
    waited.time_to_first_token = absl::InfiniteDuration();
    waited.total = d_.clock() - sequence.request().arrival;
    RecordTargets(d_.metrics, sequence.request().target, waited,
                  /*finished=*/false);
    return;
  }
  const RequestSample sample = sequence.Sample();
  d_.metrics.Finished(sample);
  const std::optional<CancelCause> cause = CancelCauseOf(ending);
  if (cause.has_value()) {
    d_.metrics.Cancelled(CancelStageOf(ending, sequence.progress()), *cause);
  }
  RecordTargets(d_.metrics, sequence.request().target, sample,
                ending == Ending::kFinished);
  if (sequence.recall() == nullptr) return;
  for (int kind = 0; kind < kPatternKinds; ++kind) {
    d_.metrics.Recall(kind, sequence.recall()->shares(kind));
  }
}

void ServingLoop::PublishGauges() {
  const PagePool& pages = d_.scheduler.pages();
  const int waiting = d_.queue.waiting() + d_.scheduler.preempted();
  d_.load.SetRequests(d_.scheduler.running(), waiting,
                      static_cast<double>(pages.leased()) / pages.total());
  d_.metrics.SetWaiting(waiting);
  d_.metrics.SetRunning(d_.scheduler.running());
  d_.metrics.SetPages(pages.leased(), pages.free(), pages.cached());
  const PageAccount::Counts counts = d_.scheduler.TakePageCounts();
  d_.metrics.PrefixCache({.query_tokens = counts.query_tokens,
                          .hit_tokens = counts.hit_tokens,
                          .evicted_pages = counts.evicted_pages});
}

}  // namespace sparseserve
