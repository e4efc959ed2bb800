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

// One turn of 256 decoding sequences while 10,000 wait, of which some rise by
// age. No place is free for more.
void BM_TurnBesideALongQueue(benchmark::State& state) {
  constexpr int kRunning = 256;
  const int waiting = static_cast<int>(state.range(0));
  const testing::FakeTokenizer tokenizer;
  const auto scheduler = *Scheduler::Create({.max_step_tokens = 512,
                                             .max_running_sequences = kRunning,
                                             .context_tokens = 1 << 20,
                                             .kv_pages = 1 << 20},
                                            tokenizer);
  absl::Time now = absl::UnixEpoch();
  const auto admit = [&](int count) {
    std::vector<std::unique_ptr<Request>> requests;
    for (int i = 0; i < count; ++i) {
      auto request = std::make_unique<Request>();
      request->arrival = now;
      request->deadline = now + absl::Minutes(10) + absl::Milliseconds(i);
      request->priority = i % 3;
      request->target.time_to_first_token = absl::Minutes(1 + i % 7);
      request->prompt.assign(1 + i % 100, 'p');
      request->max_output_tokens = 1 << 19;
      request->sink = std::make_shared<testing::RecordingSink>();
      requests.push_back(std::move(request));
    }
    scheduler->Admit(std::move(requests), now);
  };
  StepResult result;
  const auto run = [&](const StepPlan& plan) {
    result.slices.resize(plan.slices.size());
    for (SliceResult& slice : result.slices) slice.token = 'a';
    now += absl::Milliseconds(5);
    benchmark::DoNotOptimize(scheduler->Commit(result, now));
    benchmark::DoNotOptimize(scheduler->TakeEnded());
  };
  admit(kRunning + waiting);
  while (scheduler->running() < kRunning) run(scheduler->PlanStep(now));
  for (auto _ : state) {
    scheduler->Sweep(now);
    run(scheduler->PlanStep(now));
    if (scheduler->waiting() < waiting) {
      state.PauseTiming();
      admit(waiting - scheduler->waiting());
      state.ResumeTiming();
    }
  }
  state.counters["running"] = scheduler->running();
  state.counters["waiting"] = scheduler->waiting();
}
BENCHMARK(BM_TurnBesideALongQueue)
    ->ArgName("waiting")
    ->Arg(0)
    ->Arg(10'000)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sparseserve

BENCHMARK_MAIN();
