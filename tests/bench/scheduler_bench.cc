// What scheduling costs beside the step it schedules.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/sequence.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

constexpr int kSequences = 64;
constexpr int kPromptTokens = 512;
constexpr int kOutputTokens = 7000;
// A decode step of a small model on two cores.
constexpr double kStepSeconds = 0.005;

void AdmitAll(Scheduler& scheduler, int stop_strings) {
  std::vector<std::unique_ptr<Request>> requests;
  for (int i = 0; i < kSequences; ++i) {
    auto request = std::make_unique<Request>();
    request->arrival = absl::UnixEpoch();
    request->prompt.assign(kPromptTokens, 'p');
    request->max_output_tokens = kOutputTokens;
    for (int s = 0; s < stop_strings; ++s) {
      // As dear as can be: each byte of output extends the candidate.
      request->stop_strings.push_back(std::string(255, 'a') +
                                      static_cast<char>('b' + s));
    }
    request->sink = std::make_shared<testing::RecordingSink>();
    requests.push_back(std::move(request));
  }
  scheduler.Admit(std::move(requests), absl::UnixEpoch());
}

// Runs one step unless only decodes are left.
bool Prefill(Scheduler& scheduler, absl::Time now) {
  const StepPlan plan = scheduler.PlanStep(now);
  if (plan.slices.back().phase == Phase::kDecode) return false;
  StepResult result;
  result.slices.resize(plan.slices.size());
  for (SliceResult& slice : result.slices) slice.token = 'a';
  scheduler.Commit(result, now);
  return true;
}

// One turn of 64 decoding sequences: sweep, plan, commit, take what ended.
void BM_DecodeTurn(benchmark::State& state) {
  const testing::FakeTokenizer tokenizer;
  const auto scheduler =
      *Scheduler::Create({.max_step_tokens = 8192,
                          .max_running_sequences = kSequences,
                          .context_tokens = 8192,
                          .kv_pages = kSequences * 128},
                         tokenizer);
  const absl::Time now = absl::UnixEpoch();
  StepResult result;
  result.slices.resize(kSequences);
  for (SliceResult& slice : result.slices) slice.token = 'a';

  for (auto _ : state) {
    if (scheduler->running() < kSequences) {
      state.PauseTiming();
      scheduler->EndAll(Ending::kCancelled, now);
      scheduler->TakeEnded();
      AdmitAll(*scheduler, static_cast<int>(state.range(0)));
      while (Prefill(*scheduler, now)) {
      }
      state.ResumeTiming();
    }
    scheduler->Sweep(now);
    const StepPlan plan = scheduler->PlanStep(now);
    benchmark::DoNotOptimize(scheduler->Commit(result, now));
    benchmark::DoNotOptimize(scheduler->TakeEnded());
  }
  state.counters["share_of_5ms_step"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kStepSeconds,
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_DecodeTurn)->ArgName("stop_strings")->Arg(0)->Arg(16);

constexpr int kRunning = 256;
constexpr int kWaiting = 10'000;

// 256 decoding sequences, and others that wait; no place is free.
class LongQueue {
 public:
  LongQueue()
      : scheduler_(*Scheduler::Create({.max_step_tokens = 512,
                                       .max_running_sequences = kRunning,
                                       .context_tokens = 1 << 20,
                                       .kv_pages = 1 << 20},
                                      tokenizer_)) {}

  Scheduler& scheduler() { return *scheduler_; }

  // Of three priorities, with targets of some minutes.
  void Admit(int count) {
    std::vector<std::unique_ptr<Request>> requests;
    for (int i = 0; i < count; ++i) {
      std::unique_ptr<Request> request = MakeRequest(1 + i % 100);
      request->deadline = now + absl::Minutes(10) + absl::Milliseconds(i);
      request->priority = i % 3;
      request->target.time_to_first_token = absl::Minutes(1 + i % 7);
      requests.push_back(std::move(request));
    }
    scheduler_->Admit(std::move(requests), now);
  }
  std::unique_ptr<Request> MakeRequest(int prompt_tokens) const {
    auto request = std::make_unique<Request>();
    request->arrival = now;
    request->prompt.assign(prompt_tokens, 'p');
    request->max_output_tokens = 1 << 19;
    request->sink = std::make_shared<testing::RecordingSink>();
    return request;
  }

  void Run(const StepPlan& plan) {
    result_.slices.resize(plan.slices.size());
    for (SliceResult& slice : result_.slices) slice.token = 'a';
    now += absl::Milliseconds(5);
    benchmark::DoNotOptimize(scheduler_->Commit(result_, now));
    benchmark::DoNotOptimize(scheduler_->TakeEnded());
  }
  void Turn() {
    scheduler_->Sweep(now);
    Run(scheduler_->PlanStep(now));
  }
  void StartAll() {
    while (scheduler_->running() < kRunning) Turn();
  }

  absl::Time now = absl::UnixEpoch();

 private:
  const testing::FakeTokenizer tokenizer_;
  const std::unique_ptr<Scheduler> scheduler_;
  StepResult result_;
};

// One turn of 256 decoding sequences while 10,000 wait, of which some rise by
// age.
void BM_TurnBesideALongQueue(benchmark::State& state) {
  const int waiting = static_cast<int>(state.range(0));
  LongQueue queue;
  queue.Admit(kRunning + waiting);
  queue.StartAll();
  for (auto _ : state) {
    queue.Turn();
    if (queue.scheduler().waiting() < waiting) {
      state.PauseTiming();
      queue.Admit(waiting - queue.scheduler().waiting());
      state.ResumeTiming();
    }
  }
  state.counters["running"] = queue.scheduler().running();
  state.counters["waiting"] = queue.scheduler().waiting();
}
BENCHMARK(BM_TurnBesideALongQueue)
    ->ArgName("waiting")
    ->Arg(0)
    ->Arg(kWaiting)
    ->Unit(benchmark::kMicrosecond);

// The turn in which the targets of all that wait pass at once.
void BM_TurnInWhichTargetsPass(benchmark::State& state) {
  // Before any rises by age.
  constexpr absl::Duration kTarget = absl::Seconds(20);
  for (auto _ : state) {
    state.PauseTiming();
    auto queue = std::make_unique<LongQueue>();
    queue->Admit(kRunning);
    queue->StartAll();
    std::vector<std::unique_ptr<Request>> requests;
    for (int i = 0; i < kWaiting; ++i) {
      requests.push_back(queue->MakeRequest(10));
      requests.back()->target.time_to_first_token = kTarget;
    }
    queue->scheduler().Admit(std::move(requests), queue->now);
    for (int turn = 0; turn < 20; ++turn) queue->Turn();
    queue->now += kTarget;
    state.ResumeTiming();
    queue->Turn();
    state.PauseTiming();
    queue.reset();
    state.ResumeTiming();
  }
}
BENCHMARK(BM_TurnInWhichTargetsPass)
    ->Iterations(20)
    ->Unit(benchmark::kMicrosecond);

// One more, behind 10,000 of all priorities with deadlines all over a day.
void BM_AdmitBesideALongQueue(benchmark::State& state) {
  LongQueue queue;
  queue.Admit(kRunning);
  queue.StartAll();
  for (int turn = 0; turn < 20; ++turn) queue.Turn();
  auto next = [&queue, i = int64_t{0}]() mutable {
    std::vector<std::unique_ptr<Request>> one;
    one.push_back(queue.MakeRequest(10));
    one[0]->priority = static_cast<int>(i % 201) - 100;
    one[0]->deadline = queue.now + absl::Seconds(100 + i * 7919 % 86'400);
    ++i;
    return one;
  };
  for (int i = 0; i < kWaiting; ++i) queue.scheduler().Admit(next(), queue.now);
  for (auto _ : state) {
    state.PauseTiming();
    std::vector<std::unique_ptr<Request>> one = next();
    state.ResumeTiming();
    queue.scheduler().Admit(std::move(one), queue.now);
  }
  state.counters["waiting"] = queue.scheduler().waiting();
}
BENCHMARK(BM_AdmitBesideALongQueue)
    ->Iterations(2000)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sparseserve

BENCHMARK_MAIN();
