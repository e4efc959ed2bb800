// The scheduler in virtual time: what becomes of requests while others keep
// coming, on a machine whose steps take 1 ms, and 1 ms more for each row.

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/sequence.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

using testing::RecordingSink;

Scheduler::Options Places(int places) {
  return {.max_step_tokens = 256,
          .max_running_sequences = places,
          .context_tokens = 8192,
          .kv_pages = 4096,
          .keeps_prefixes = false};
}

std::unique_ptr<Request> MakeRequest(int prompt_tokens, int output_tokens,
                                     int priority = 0) {
  auto request = std::make_unique<Request>();
  request->prompt.assign(prompt_tokens, 'p');
  request->max_output_tokens = output_tokens;
  request->priority = priority;
  request->sink = std::make_shared<RecordingSink>();
  return request;
}

std::unique_ptr<Request> WithTarget(std::unique_ptr<Request> request,
                                    absl::Duration first_token,
                                    OnMiss on_miss = OnMiss::kDense) {
  request->target.time_to_first_token = first_token;
  request->target.on_miss = on_miss;
  return request;
}

// Missed before anything runs for it.
std::unique_ptr<Request> Late(std::unique_ptr<Request> request) {
  return WithTarget(std::move(request), absl::Nanoseconds(1));
}

class Load {
 public:
  explicit Load(const Scheduler::Options& options)
      : scheduler_(*Scheduler::Create(options, tokenizer_)) {}

  SequenceId Add(std::unique_ptr<Request> request) {
    request->arrival = now;
    std::vector<std::unique_ptr<Request>> requests;
    requests.push_back(std::move(request));
    scheduler_->Admit(std::move(requests), now);
    TakeEnded();
    return ++added_;
  }

  // Returns how many were stopped.
  int Turn() {
    scheduler_->Sweep(now);
    TakeEnded();
    const StepPlan plan = scheduler_->PlanStep(now);
    TakeEnded();
    EXPECT_EQ(plan.slices.empty(), scheduler_->idle());
    ran_.clear();
    const int stopped = static_cast<int>(scheduler_->preempted_tokens().size());
    if (plan.slices.empty()) return stopped;
    StepResult result;
    double seconds = 1e-3;
    for (const StepSlice& slice : plan.slices) {
      ran_[slice.sequence] = static_cast<int>(slice.tokens.size());
      seconds += 1e-3 * static_cast<double>(slice.tokens.size());
      result.slices.emplace_back();
      result.slices.back().token = slice.wants_token ? 'a' : -1;
    }
    ++steps_;
    now += absl::Seconds(slowness * seconds) + pause;
    scheduler_->Commit(result, now);
    TakeEnded();
    return stopped;
  }
  // Until it ended; false if it has not after so many turns.
  bool Finish(
      SequenceId id, int turns,
      const std::function<void()>& before_each = [] {}) {
    for (int turn = 0; turn < turns && !ended(id).has_value(); ++turn) {
      before_each();
      Turn();
    }
    return ended(id) == Ending::kFinished;
  }

  // Has the scheduler learn what steps take.
  void Learn() {
    for (int i = 0; i < 60; ++i) {
      Add(MakeRequest(10 + 12 * (i % 20), 4));
      Turn();
    }
    while (!scheduler_->idle()) Turn();
  }
  void Wait(absl::Duration duration) {
    const absl::Time end = now + duration;
    while (now < end) {
      const absl::Time before = now;
      Turn();
      if (now == before) now = end;
    }
  }

  std::optional<Ending> ended(SequenceId id) const {
    const auto found = ended_.find(id);
    if (found == ended_.end()) return std::nullopt;
    return found->second;
  }
  // Tokens that the latest step ran of it.
  int ran(SequenceId id) const {
    const auto found = ran_.find(id);
    return found == ran_.end() ? 0 : found->second;
  }
  int steps() const { return steps_; }
  int ended() const { return static_cast<int>(ended_.size()); }
  Scheduler& scheduler() { return *scheduler_; }

  absl::Time now = absl::FromUnixSeconds(1000);
  double slowness = 1;
  absl::Duration pause = absl::ZeroDuration();  // after each step

 private:
  void TakeEnded() {
    for (const auto& sequence : scheduler_->TakeEnded()) {
      ended_[sequence->id()] = sequence->ending();
    }
  }

  testing::FakeTokenizer tokenizer_;
  std::unique_ptr<Scheduler> scheduler_;
  int64_t added_ = 0;
  std::map<SequenceId, Ending> ended_;
  std::map<SequenceId, int> ran_;
  int steps_ = 0;
};

TEST(SchedulerLoadTest, SlowFirstStepsRefuseNothingForEver) {
  Load load(Places(4));
  const auto one = [&load] {
    std::unique_ptr<Request> request = MakeRequest(200, 2);  // 0.2 s
    request->deadline = load.now + absl::Seconds(1);
    const SequenceId id = load.Add(std::move(request));
    for (int turn = 0; turn < 3; ++turn) load.Turn();
    load.now += absl::Seconds(1);
    load.Turn();
    return load.ended(id);
  };
  load.slowness = 10;
  for (int i = 0; i < 40 && load.steps() < 20; ++i) one();
  load.slowness = 1;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(one(), Ending::kFinished);
}

TEST(SchedulerLoadTest, WhatIsKnownOfStepsRefusesWhileItIsFresh) {
  Load load(Places(4));
  load.Learn();
  std::unique_ptr<Request> request = MakeRequest(200, 2);
  request->deadline = load.now + absl::Milliseconds(50);
  EXPECT_EQ(load.ended(load.Add(std::move(request))), Ending::kTooShort);
}

// Whole only with all of its output.
std::unique_ptr<Request> Whole(std::unique_ptr<Request> request,
                               absl::Time deadline) {
  request->ignore_eos = true;
  request->deadline = deadline;
  return request;
}

TEST(SchedulerLoadTest, AnAnswerThatCannotBeWholeIsNotBegun) {
  Load load(Places(4));
  load.Learn();
  // 2 ms a token.
  const absl::Time deadline = load.now + absl::Seconds(1);
  EXPECT_EQ(load.ended(load.Add(Whole(MakeRequest(50, 2000), deadline))),
            Ending::kTooShort);
  std::unique_ptr<Request> open = MakeRequest(50, 2000);
  open->deadline = deadline;
  EXPECT_EQ(load.ended(load.Add(std::move(open))), std::nullopt);
  const SequenceId fits = load.Add(Whole(MakeRequest(50, 100), deadline));
  EXPECT_TRUE(load.Finish(fits, 2000));
}

TEST(SchedulerLoadTest, PromptsLeaveAnAnswerTheTimeToBeWhole) {
  Load load(Places(4));
  load.Learn();
  // 60 ms for each token, and the time that steps aim at is 100.
  const SequenceId answer = load.Add(
      Whole(MakeRequest(20, 300), load.now + 300 * absl::Milliseconds(60)));
  load.Turn();
  // Half a minute of prompts.
  SequenceId prompt = 0;
  for (int i = 0; i < 4; ++i) prompt = load.Add(MakeRequest(8000, 1));
  EXPECT_TRUE(load.Finish(answer, 1000));
  EXPECT_EQ(load.ended(prompt), std::nullopt);
  EXPECT_TRUE(load.Finish(prompt, 1000));
}

TEST(SchedulerLoadTest, ALatePromptThatItsShareIsTooSmallForIsNotBegun) {
  Load load(Places(4));
  load.Learn();
  std::unique_ptr<Request> request = Late(MakeRequest(1000, 1));
  request->deadline = load.now + absl::Seconds(3);
  const SequenceId late = load.Add(std::move(request));
  int ran = 0;
  SequenceId latest = late;
  for (int turn = 0; turn < 1000 && !load.ended(late).has_value(); ++turn) {
    if (latest == late || load.ended(latest).has_value()) {
      latest = load.Add(MakeRequest(400, 1));
    }
    load.Turn();
    ran += load.ran(late);
  }
  EXPECT_EQ(load.ended(late), Ending::kUnmeetable);
  EXPECT_EQ(ran, 0);
}

TEST(SchedulerLoadTest, APlaceIsExpectedWhenAnAnswerEnds) {
  Load load(Places(1));
  load.Learn();
  load.Add(MakeRequest(5, 8000));
  load.pause = absl::Milliseconds(40);
  load.Wait(absl::Minutes(5));
  // Nobody has started for long.
  std::unique_ptr<Request> request = MakeRequest(50, 4);
  request->deadline = load.now + absl::Minutes(10);
  const SequenceId id = load.Add(std::move(request));
  load.Turn();
  EXPECT_EQ(load.ended(id), std::nullopt);
  EXPECT_TRUE(load.Finish(id, 3000));
}

TEST(SchedulerLoadTest, TheLineIsNotRefusedForWantOfStarts) {
  Load load(Places(1));
  load.Learn();
  load.Add(MakeRequest(5, 8000));
  load.Turn();
  const int before = load.ended();
  for (int i = 0; i < 200; ++i) {
    std::unique_ptr<Request> request = MakeRequest(50, 2);
    request->deadline = load.now + absl::Minutes(10);
    load.Add(std::move(request));
  }
  load.pause = absl::Milliseconds(40);
  load.Wait(absl::Minutes(4));
  EXPECT_EQ(load.ended(), before);
}

TEST(SchedulerLoadTest, ARunningPromptWaitsForNoPlace) {
  Load load(Places(2));
  load.Learn();
  load.Add(MakeRequest(5, 8000));
  load.pause = absl::Milliseconds(30);
  load.Wait(absl::Minutes(2));
  load.pause = absl::ZeroDuration();
  const SequenceId id =
      load.Add(WithTarget(MakeRequest(900, 4), absl::Seconds(5)));
  load.Turn();
  load.Turn();
  load.Add(MakeRequest(900, 4));
  for (int turn = 0; turn < 5; ++turn) EXPECT_EQ(load.Turn(), 0);
  EXPECT_TRUE(load.Finish(id, 20));
}

TEST(SchedulerLoadTest, PlacesOfLateOnesAreThereForWhatCanBeMet) {
  Load load(Places(2));
  load.Learn();
  for (int i = 0; i < 2; ++i) load.Add(Late(MakeRequest(5, 8000)));
  load.pause = absl::Milliseconds(20);
  load.Wait(absl::Minutes(1));
  load.pause = absl::ZeroDuration();
  const SequenceId rejects = load.Add(
      WithTarget(MakeRequest(50, 1, 100), absl::Seconds(2), OnMiss::kReject));
  EXPECT_TRUE(load.Finish(rejects, 2));
  const SequenceId dense =
      load.Add(WithTarget(MakeRequest(50, 1, 100), absl::Seconds(2)));
  EXPECT_TRUE(load.Finish(dense, 2));
}

TEST(SchedulerLoadTest, LateLongPromptsHoldUpNoOther) {
  for (const double share : {0.2, 0.0}) {
    Scheduler::Options options = Places(8);
    options.best_effort_share = share;
    Load load(options);
    for (int i = 0; i < 2; ++i) load.Add(Late(MakeRequest(4000, 2, -100)));
    load.now += absl::Milliseconds(5);
    load.Turn();
    load.Add(MakeRequest(5, 7000));
    load.Turn();
    const SequenceId id =
        load.Add(WithTarget(MakeRequest(300, 1, 100), absl::Seconds(30)));
    EXPECT_TRUE(load.Finish(id, 3));
  }
}

TEST(SchedulerLoadTest, LessImportantLongPromptsHoldUpNoOther) {
  Load load(Places(16));
  for (int i = 0; i < 2; ++i) load.Add(MakeRequest(1500, 1));
  load.Turn();
  const SequenceId id = load.Add(MakeRequest(600, 1, 100));
  EXPECT_TRUE(load.Finish(id, 10, [&load] {
    while (load.scheduler().waiting() < 6) load.Add(MakeRequest(128, 1, 50));
  }));
}

TEST(SchedulerLoadTest, ARunningPromptBecomesMoreImportantToo) {
  Scheduler::Options options = Places(16);
  options.ageing_period = absl::Seconds(1);
  Load load(options);
  const SequenceId id = load.Add(MakeRequest(1000, 1));
  load.Turn();
  EXPECT_TRUE(load.Finish(id, 40, [&load] {
    while (load.scheduler().waiting() < 6) load.Add(MakeRequest(128, 1, 1));
  }));
}

TEST(SchedulerLoadTest, WhatCannotBeMetWaitsNotForEver) {
  Scheduler::Options options = Places(4);
  options.ageing_period = absl::Seconds(1);
  for (const int output : {20, 1}) {
    Load load(options);
    for (int i = 0; i < 8; ++i) load.Add(MakeRequest(64, output, -100));
    load.Turn();
    const SequenceId id = load.Add(Late(MakeRequest(64, 1)));
    const absl::Time begin = load.now;
    EXPECT_TRUE(load.Finish(id, 1000, [&] {
      while (load.scheduler().waiting() < 5) {
        load.Add(MakeRequest(64, output, -100));
      }
    }));
    EXPECT_LT(load.now - begin, absl::Seconds(5));
  }
}

TEST(SchedulerLoadTest, ALateLongPromptGoesOnWhereOthersWantAllRows) {
  Scheduler::Options options = Places(16);
  options.ageing_period = absl::Seconds(1);
  Load load(options);
  const SequenceId id = load.Add(Late(MakeRequest(2000, 1)));
  load.now += absl::Milliseconds(1);
  load.Turn();
  int late_rows = 0;
  int steps = 0;
  EXPECT_TRUE(load.Finish(id, 1000, [&] {
    late_rows += load.ran(id);
    ++steps;
    while (load.scheduler().waiting() < 6) load.Add(MakeRequest(128, 1));
  }));
  EXPECT_LT(late_rows, 0.25 * 256 * steps + 256);
}

TEST(SchedulerLoadTest, AMarkGoesWhenWhatStoodAheadWentAway) {
  Load load(Places(4));
  load.Learn();
  load.Add(MakeRequest(5, 7000));
  load.Turn();
  std::vector<std::shared_ptr<std::atomic<bool>>> cancelled;
  for (int i = 0; i < 100; ++i) {
    std::unique_ptr<Request> request =
        WithTarget(MakeRequest(250, 1, 2), absl::Hours(1));
    cancelled.push_back(request->cancelled);
    load.Add(std::move(request));
  }
  const SequenceId id =
      load.Add(WithTarget(MakeRequest(64, 1, 1), absl::Seconds(5)));
  for (const auto& flag : cancelled) *flag = true;
  const absl::Time begin = load.now;
  EXPECT_TRUE(load.Finish(id, 100, [&load] {
    while (load.scheduler().waiting() < 8) load.Add(MakeRequest(250, 1, -100));
  }));
  EXPECT_LT(load.now - begin, absl::Seconds(5));
}

TEST(SchedulerLoadTest, APromptOfSeveralStepsHoldsUpNoShortOne) {
  Scheduler::Options options = Places(32);
  options.max_step_tokens = 4096;
  Load load(options);
  load.Learn();
  load.Add(MakeRequest(5, 7000));
  load.Turn();
  load.Turn();
  // A step of 100 ms has room for a page of it.
  load.Add(MakeRequest(4000, 2));
  EXPECT_TRUE(load.Finish(load.Add(MakeRequest(40, 1)), 4));
}

TEST(SchedulerLoadTest, LateOnesStopOnlyForOneThatStarts) {
  for (const int prompt : {640, 1600}) {
    Scheduler::Options options = Places(64);
    options.max_step_tokens = 512;
    options.kv_pages = 45;
    options.context_tokens = 2048;
    Load load(options);
    for (int i = 0; i < 10; ++i) load.Add(MakeRequest(60, 900));
    load.Turn();
    for (int i = 0; i < 8; ++i) load.Add(Late(MakeRequest(60, 300)));
    load.now += absl::Milliseconds(1);
    while (load.scheduler().running() < 18) load.Turn();
    while (load.scheduler().pages().leased() < 36) load.Turn();
    const SequenceId id = load.Add(MakeRequest(prompt, 2));
    const int stopped = load.Turn();
    // 10 pages and one to come for each of 11; 25 would never be had.
    EXPECT_EQ(load.ran(id) > 0, prompt == 640);
    EXPECT_EQ(stopped > 0, prompt == 640);
  }
}

TEST(SchedulerLoadTest, WhatRanInTheLatestStepIsNotAheadOfAnybody) {
  Load load(Places(8));
  load.Learn();
  load.Add(MakeRequest(250, 1));
  load.Turn();
  // 201 ms.
  const SequenceId id = load.Add(WithTarget(
      MakeRequest(200, 1), absl::Milliseconds(300), OnMiss::kReject));
  EXPECT_TRUE(load.Finish(id, 2));
}

TEST(SchedulerLoadTest, AStreamMissesOneStepAtATimeForWholePrompts) {
  Load load(Places(32));
  const SequenceId stream = load.Add(MakeRequest(5, 500));
  load.Turn();
  for (int i = 0; i < 20; ++i) {
    std::unique_ptr<Request> request = MakeRequest(256, 1);
    request->attention.traits.is_selection_causal = false;
    load.Add(std::move(request));
  }
  load.now += absl::Seconds(6);
  int missed = 0;
  for (int turn = 0; turn < 60; ++turn) {
    const bool missed_before = turn > 0 && load.ran(stream) == 0;
    load.Turn();
    if (load.ran(stream) > 0) continue;
    ++missed;
    EXPECT_FALSE(missed_before);
  }
  EXPECT_EQ(missed, 20);
}

TEST(SchedulerLoadTest, TokensTooSlowForATargetAreRefusedWhereAsked) {
  Load load(Places(2));
  load.Learn();
  std::unique_ptr<Request> request = MakeRequest(50, 20);
  request->target.time_per_output_token = absl::Nanoseconds(1);
  request->target.on_miss = OnMiss::kReject;
  EXPECT_EQ(load.ended(load.Add(std::move(request))), Ending::kTooShort);
}

TEST(SchedulerLoadTest, TargetsThatPassTogetherHoldUpNobody) {
  for (const OnMiss on_miss : {OnMiss::kDense, OnMiss::kReject}) {
    Load load(Places(8));
    const SequenceId stream = load.Add(MakeRequest(5, 7000));
    load.Turn();
    // More than places, and then many.
    for (int i = 0; i < 7; ++i) load.Add(MakeRequest(5, 300));
    load.Turn();
    std::vector<SequenceId> missing;
    for (int i = 0; i < 1000; ++i) {
      missing.push_back(
          load.Add(WithTarget(MakeRequest(10, 1, 1), absl::Hours(1), on_miss)));
    }
    load.Turn();
    const SequenceId other = load.Add(MakeRequest(10, 1));
    load.now += absl::Hours(1) + absl::Seconds(1);
    const int before = load.ended();
    load.Turn();
    EXPECT_EQ(load.ran(stream), 1);
    EXPECT_LE(load.ended() - before, 32);
    while (load.scheduler().running() == 8) load.Turn();
    // The first places are its.
    EXPECT_TRUE(load.Finish(other, 2));
    for (int turn = 0; turn < 1200 && load.scheduler().waiting() > 0; ++turn) {
      load.Turn();
    }
    for (const SequenceId id : missing) {
      EXPECT_EQ(load.ended(id), on_miss == OnMiss::kReject ? Ending::kUnmeetable
                                                           : Ending::kFinished);
    }
  }
}

}  // namespace
}  // namespace sparseserve
