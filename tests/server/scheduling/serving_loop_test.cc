#include "server/scheduling/serving_loop.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_executor.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/step_gate.h"

namespace sparseserve {
namespace {

using testing::FakeExecutor;
using testing::FakeTokenizer;
using ::testing::IsEmpty;
using testing::RecordingSink;
using testing::StepGate;

// A sink that calls `at_end` before it records the end.
class ObservingSink : public RecordingSink {
 public:
  explicit ObservingSink(std::function<void()> at_end)
      : at_end_(std::move(at_end)) {}
  void Finish(const FinishReport& report) override {
    at_end_();
    RecordingSink::Finish(report);
  }
  void Fail(const Failure& failure) override {
    at_end_();
    RecordingSink::Fail(failure);
  }

 private:
  const std::function<void()> at_end_;
};

struct Call {
  std::shared_ptr<std::atomic<bool>> cancelled;
  std::shared_ptr<RecordingSink> sink;
};

// A running loop; each step waits at the gate.
class ServingLoopTest : public ::testing::Test {
 protected:
  static constexpr int kPages = 24;

  ServingLoopTest()
      : executor_(kPages, kOptions.max_step_tokens),
        scheduler_(*Scheduler::Create(kOptions, tokenizer_)),
        loop_({queue_, executor_, *scheduler_, metrics_, load_,
               [this] {
                 const absl::Time now = absl::FromUnixNanos(now_ns_);
                 if (after_clock_) after_clock_();
                 return now;
               },
               [this](const absl::Status& status) {
                 ++device_failures_;
                 device_status_ = status;
               }}) {
    executor_.on_step = [this](const StepPlan&) {
      gate_.Pass();
      return absl::OkStatus();
    };
  }
  ~ServingLoopTest() override {
    gate_.Open();
    loop_.Stop();
    EXPECT_THAT(executor_.breaches(), IsEmpty());
    EXPECT_EQ(scheduler_->pages().leased(), 0);
    EXPECT_TRUE(scheduler_->CheckInvariants().ok());
    EXPECT_EQ(queue_.waiting(), 0);
    EXPECT_EQ(Sum("sparseserve_requests_waiting"), 0);
    EXPECT_EQ(Sum("sparseserve_requests_running"), 0);
    EXPECT_EQ(Sum("sparseserve_kv_cache_usage_ratio"), 0);
  }

  static std::unique_ptr<Request> MakeRequest(int prompt_tokens,
                                              int max_output) {
    auto request = std::make_unique<Request>();
    request->arrival = absl::FromUnixSeconds(1000);
    request->prompt.assign(prompt_tokens, 'p');
    request->max_output_tokens = max_output;
    request->sink = std::make_shared<RecordingSink>();
    return request;
  }
  Call Send(std::unique_ptr<Request> request) {
    Call call = {request->cancelled,
                 std::static_pointer_cast<RecordingSink>(request->sink)};
    EXPECT_EQ(queue_.Push(request), Refusal::kNone);
    return call;
  }
  void Cancel(const Call& call) {
    *call.cancelled = true;
    queue_.Wake();
  }
  void SetTime(absl::Time now) { now_ns_ = absl::ToUnixNanos(now); }

  // Sum over the series of a family whose labels contain `label`.
  double Sum(const std::string& family, const std::string& label = "") const {
    double sum = 0;
    const std::string text = metrics_.Serialize();
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(line, absl::MaxSplits(' ', 1));
      const auto [series, number] = parts;
      if (series != family && !absl::StartsWith(series, family + "{")) continue;
      double value = 0;
      if (absl::StrContains(series, label) &&
          absl::SimpleAtod(number, &value)) {
        sum += value;
      }
    }
    return sum;
  }
  double Finished(const std::string& reason) const {
    return Sum("sparseserve_requests_finished_total",
               "finish_reason=\"" + reason + "\"");
  }
  double Cancelled(const std::string& stage, const std::string& cause) const {
    return Sum(
        "sparseserve_requests_cancelled_total",
        "cause=\"" + cause + "\",model_name=\"small\",stage=\"" + stage + "\"");
  }

  const Scheduler::Options kOptions = {.max_step_tokens = 192,
                                       .max_running_sequences = 3,
                                       .context_tokens = 640,
                                       .kv_pages = kPages};
  std::atomic<int64_t> now_ns_{absl::ToUnixNanos(absl::FromUnixSeconds(1001))};
  // Called after each reading of the clock, on the thread that reads.
  std::function<void()> after_clock_;
  StepGate gate_;
  FakeTokenizer tokenizer_;
  RequestQueue queue_{{}};
  FakeExecutor executor_;
  Metrics metrics_{{.model_name = "small", .kv_pages = kPages}};
  LoadGauge load_;
  std::unique_ptr<Scheduler> scheduler_;
  // Written on the loop's thread, read after it was joined.
  int device_failures_ = 0;
  absl::Status device_status_;
  ServingLoop loop_;
};

TEST_F(ServingLoopTest, CountsHeadsByPhaseAndPatternForEverySlice) {
  const size_t chosen = PatternSpec(XAttentionPattern()).index();
  std::unique_ptr<Request> request = MakeRequest(200, 3);
  request->attention.heads[0][chosen] = 28;
  request->attention.heads[0][0] = 2;
  request->attention.heads[1][0] = 30;
  const Call call = Send(std::move(request));
  gate_.Open();
  loop_.Start();
  call.sink->WaitUntilEnded();
  const auto heads = [this](const std::string& pattern,
                            const std::string& phase) {
    return Sum("sparseserve_attention_heads_total",
               "pattern=\"" + pattern + "\",phase=\"" + phase + "\"");
  };
  // Two chunks, then two tokens more.
  EXPECT_EQ(heads("xattention", "prefill"), 56);
  EXPECT_EQ(heads("dense", "prefill"), 4);
  EXPECT_EQ(heads("xattention", "decode"), 0);
  EXPECT_EQ(heads("dense", "decode"), 60);
}

TEST_F(ServingLoopTest, StreamsAnAnswerAndReportsItsEnd) {
  loop_.Start();
  gate_.Open();
  const Call call = Send(MakeRequest(5, 20));
  call.sink->WaitUntilEnded();
  ASSERT_TRUE(call.sink->report().has_value());
  EXPECT_EQ(call.sink->report()->reason, FinishReason::kLength);
  EXPECT_EQ(call.sink->report()->queue, absl::Seconds(1));
  EXPECT_EQ(call.sink->token_ids().size(), 20u);
  EXPECT_EQ(call.sink->pieces().size(), 20u);
  EXPECT_EQ(call.sink->text().size(), 20u);
  loop_.Stop();
  EXPECT_EQ(Finished("length"), 1);
  EXPECT_EQ(Sum("sparseserve_requests_finished_total"), 1);
  EXPECT_EQ(Sum("sparseserve_requests_cancelled_total"), 0);
  EXPECT_EQ(Sum("sparseserve_generation_tokens_total"), 20);
  EXPECT_EQ(Sum("sparseserve_prompt_tokens_total"), 5);
  EXPECT_EQ(Sum("sparseserve_inter_token_latency_seconds_count"), 19);
  EXPECT_EQ(Sum("sparseserve_engine_step_seconds_count"), 20);
}

TEST_F(ServingLoopTest, SaysHowFullTheServerIs) {
  const double page = 1.0 / kPages;
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(Send(MakeRequest(5, 20)));
  loop_.Start();
  gate_.WaitForArrivals(1);
  const LoadGauge::Load load = load_.load();
  EXPECT_EQ(load.running, 3);
  EXPECT_EQ(load.waiting, 2);
  EXPECT_DOUBLE_EQ(load.kv_usage, 3 * page);
  EXPECT_EQ(load.blocks.allowed, 0);
  gate_.Open();
  for (const Call& call : calls) call.sink->WaitUntilEnded();
  loop_.Stop();
  EXPECT_EQ(load_.load().running, 0);
  EXPECT_EQ(load_.load().waiting, 0);
  EXPECT_EQ(load_.load().kv_usage, 0);
  // A block for each row of output and each prompt, all of them visited.
  EXPECT_EQ(load_.load().blocks.allowed, 5 * 20);
  EXPECT_EQ(load_.load().blocks.computed, 5 * 20);
}

TEST_F(ServingLoopTest, NothingStartsBeforeItArrived) {
  // A request comes in just after each of the loop's first three readings.
  std::vector<Call> calls;
  after_clock_ = [&] {
    if (calls.size() == 3) return;
    const absl::Time now = absl::FromUnixNanos(now_ns_) + absl::Seconds(10);
    SetTime(now);
    std::unique_ptr<Request> request = MakeRequest(5, 1);
    request->arrival = now;
    calls.push_back(Send(std::move(request)));
  };
  gate_.Open();
  loop_.Start();
  const Call last = Send(MakeRequest(5, 1));
  last.sink->WaitUntilEnded();
  // It took a step, whose end was the third reading.
  ASSERT_EQ(calls.size(), 3u);
  for (const Call& call : calls) {
    call.sink->WaitUntilEnded();
    ASSERT_TRUE(call.sink->report().has_value());
    EXPECT_GE(call.sink->report()->queue, absl::ZeroDuration());
  }
  loop_.Stop();
  EXPECT_EQ(Sum("sparseserve_metrics_clamped_total"), 0);
}

TEST_F(ServingLoopTest, PagesAreFreeAndCountedBeforeTheEndIsTold) {
  double usage = -1;
  double finished = -1;
  auto sink = std::make_shared<ObservingSink>([&] {
    usage = Sum("sparseserve_kv_cache_usage_ratio");
    finished = Sum("sparseserve_requests_finished_total");
  });
  std::unique_ptr<Request> request = MakeRequest(5, 2);
  request->sink = sink;
  loop_.Start();
  gate_.Open();
  Send(std::move(request));
  sink->WaitUntilEnded();
  EXPECT_EQ(usage, 0);
  EXPECT_EQ(finished, 1);
}

TEST_F(ServingLoopTest, CancelDuringAStepFreesPagesBeforeTheNext) {
  double usage = -1;
  auto sink = std::make_shared<ObservingSink>(
      [&] { usage = Sum("sparseserve_kv_cache_usage_ratio"); });
  std::unique_ptr<Request> request = MakeRequest(5, 600);
  request->sink = sink;
  loop_.Start();
  const Call call = Send(std::move(request));
  gate_.Allow(3);
  gate_.WaitForArrivals(4);
  Cancel(call);
  gate_.Allow(1);
  sink->WaitUntilEnded();
  EXPECT_EQ(usage, 0);
  EXPECT_EQ(sink->pieces().size(), 4u);
  EXPECT_EQ(sink->status().code(), absl::StatusCode::kCancelled);
  loop_.Stop();
  EXPECT_EQ(executor_.steps(), 4);
  EXPECT_EQ(Finished("cancelled"), 1);
  EXPECT_EQ(Cancelled("decode", "client"), 1);
  EXPECT_EQ(Sum("sparseserve_requests_cancelled_total"), 1);
  EXPECT_EQ(Sum("sparseserve_wasted_tokens_total"), 5 + 3);
}

TEST_F(ServingLoopTest, CancelledInTheQueueNeverRuns) {
  const Call call = Send(MakeRequest(5, 600));
  Cancel(call);
  loop_.Start();
  call.sink->WaitUntilEnded();
  loop_.Stop();
  EXPECT_EQ(call.sink->reason(), ErrorReason::kCancelled);
  EXPECT_EQ(executor_.steps(), 0);
  EXPECT_EQ(Cancelled("queue", "client"), 1);
}

TEST_F(ServingLoopTest, DeadlineEndsWhatRunsAndWhatWaits) {
  std::vector<Call> calls;
  for (int i = 0; i < 4; ++i) {
    std::unique_ptr<Request> request = MakeRequest(5, 600);
    request->deadline = absl::FromUnixSeconds(1005);
    calls.push_back(Send(std::move(request)));
  }
  loop_.Start();
  gate_.Allow(2);
  gate_.WaitForArrivals(3);
  SetTime(absl::FromUnixSeconds(1005));
  gate_.Allow(1);
  for (const Call& call : calls) call.sink->WaitUntilEnded();
  EXPECT_EQ(calls[0].sink->reason(), ErrorReason::kDeadlineExpired);
  EXPECT_EQ(calls[3].sink->reason(), ErrorReason::kDeadlineInQueue);
  EXPECT_EQ(calls[3].sink->status().code(),
            absl::StatusCode::kDeadlineExceeded);
  loop_.Stop();
  EXPECT_EQ(Finished("deadline"), 4);
  EXPECT_EQ(Cancelled("decode", "deadline"), 3);
  EXPECT_EQ(Cancelled("queue", "deadline"), 1);
}

TEST_F(ServingLoopTest, SlowReaderIsCancelledAndOthersGoOn) {
  std::unique_ptr<Request> slow = MakeRequest(5, 100);
  slow->sink = std::make_shared<RecordingSink>(2);
  const Call slow_call = Send(std::move(slow));
  const Call call = Send(MakeRequest(5, 100));
  loop_.Start();
  gate_.Open();
  slow_call.sink->WaitUntilEnded();
  call.sink->WaitUntilEnded();
  EXPECT_EQ(slow_call.sink->reason(), ErrorReason::kSlowConsumer);
  EXPECT_EQ(slow_call.sink->pieces().size(), 2u);
  EXPECT_EQ(call.sink->token_ids().size(), 100u);
  loop_.Stop();
  EXPECT_EQ(Cancelled("write", "slow_consumer"), 1);
  EXPECT_EQ(Sum("sparseserve_requests_finished_total"), 2);
}

TEST_F(ServingLoopTest, ReaderTooSlowForTheLastPieceDoesNotHearOfAGoodEnd) {
  std::unique_ptr<Request> request = MakeRequest(5, 3);
  request->sink = std::make_shared<RecordingSink>(2);
  const Call call = Send(std::move(request));
  loop_.Start();
  gate_.Open();
  call.sink->WaitUntilEnded();
  EXPECT_EQ(call.sink->reason(), ErrorReason::kSlowConsumer);
  EXPECT_EQ(call.sink->report(), std::nullopt);
  EXPECT_EQ(call.sink->ends(), 1);
}

TEST_F(ServingLoopTest, BadSliceFailsAlone) {
  executor_.slice_status = [](const StepSlice& slice) {
    return slice.sequence == 1 && slice.phase == Phase::kDecode
               ? absl::InternalError("NaN at layer 3")
               : absl::OkStatus();
  };
  const Call bad = Send(MakeRequest(5, 10));
  const Call good = Send(MakeRequest(5, 10));
  loop_.Start();
  gate_.Open();
  bad.sink->WaitUntilEnded();
  good.sink->WaitUntilEnded();
  EXPECT_EQ(bad.sink->reason(), ErrorReason::kNumericFault);
  EXPECT_EQ(bad.sink->status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(good.sink->report().has_value());
  loop_.Stop();
  EXPECT_EQ(Finished("error"), 1);
  EXPECT_EQ(Finished("length"), 1);
  EXPECT_EQ(Sum("sparseserve_requests_cancelled_total"), 0);
}

TEST_F(ServingLoopTest, DeviceFailureFailsEverythingOnce) {
  executor_.on_step = [this](const StepPlan&) {
    gate_.Pass();
    return executor_.steps() < 3 ? absl::OkStatus()
                                 : absl::InternalError("bus error");
  };
  std::vector<Call> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(Send(MakeRequest(5, 100)));
  loop_.Start();
  gate_.Allow(2);
  gate_.WaitForArrivals(3);
  const Call late = Send(MakeRequest(5, 100));
  gate_.Allow(1);
  for (const Call& call : calls) call.sink->WaitUntilEnded();
  late.sink->WaitUntilEnded();
  loop_.Stop();
  EXPECT_EQ(device_failures_, 1);
  EXPECT_EQ(device_status_, absl::InternalError("bus error"));
  EXPECT_EQ(calls[0].sink->status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(calls[0].sink->reason(), ErrorReason::kDeviceFailed);
  EXPECT_EQ(calls[3].sink->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(late.sink->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Finished("error"), 5);
  std::unique_ptr<Request> after = MakeRequest(5, 1);
  EXPECT_EQ(queue_.Push(after), Refusal::kDraining);
}

TEST_F(ServingLoopTest, DrainFinishesWhatWasAccepted) {
  std::vector<Call> calls;
  for (int i = 0; i < 7; ++i) calls.push_back(Send(MakeRequest(5, 30)));
  loop_.Start();
  gate_.WaitForArrivals(1);
  queue_.StartDraining();
  gate_.Open();
  loop_.Drain(absl::InfiniteFuture());
  for (const Call& call : calls) {
    EXPECT_EQ(call.sink->ends(), 1);
    EXPECT_TRUE(call.sink->report().has_value());
  }
  EXPECT_EQ(Finished("length"), 7);
}

TEST_F(ServingLoopTest, DrainCancelsWhatIsLeftAtItsDeadline) {
  std::vector<Call> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(Send(MakeRequest(5, 600)));
  queue_.StartDraining();
  loop_.Drain(absl::FromUnixSeconds(1005));  // returns: no thread yet
  loop_.Start();
  gate_.Allow(2);
  gate_.WaitForArrivals(3);
  SetTime(absl::FromUnixSeconds(1005));
  gate_.Allow(1);
  for (const Call& call : calls) {
    call.sink->WaitUntilEnded();
    EXPECT_EQ(call.sink->reason(), ErrorReason::kDraining);
    EXPECT_EQ(call.sink->status().code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(Cancelled("queue", "drain"), 1);
  EXPECT_EQ(Cancelled("decode", "drain"), 3);
  EXPECT_EQ(Sum("sparseserve_requests_cancelled_total"), 4);
}

TEST_F(ServingLoopTest, DrainOfAnIdleLoopReturns) {
  loop_.Start();
  queue_.StartDraining();
  loop_.Drain(absl::InfiniteFuture());
  loop_.Stop();
  EXPECT_EQ(executor_.steps(), 0);
}

TEST_F(ServingLoopTest, StopCancelsEverythingAndRefusesWhatFollows) {
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(Send(MakeRequest(5, 600)));
  loop_.Start();
  gate_.WaitForArrivals(1);
  std::atomic<bool> stopped = false;
  std::thread stopper([&] {
    loop_.Stop();
    stopped = true;
  });
  while (!stopped) {
    gate_.Allow(1);
    std::this_thread::yield();
  }
  stopper.join();
  for (const Call& call : calls) {
    EXPECT_EQ(call.sink->ends(), 1);
    EXPECT_EQ(call.sink->reason(), ErrorReason::kDraining);
  }
  std::unique_ptr<Request> after = MakeRequest(5, 1);
  EXPECT_EQ(queue_.Push(after), Refusal::kDraining);
}

TEST_F(ServingLoopTest, IdleLoopShowsThatItLives) {
  loop_.Start();
  const absl::Time later = absl::FromUnixSeconds(2000);
  SetTime(later);
  while (loop_.last_turn() < later) std::this_thread::yield();
  EXPECT_EQ(executor_.steps(), 0);
}

TEST_F(ServingLoopTest, CountsEachTargetWhoseOutcomeIsKnown) {
  std::unique_ptr<Request> request = MakeRequest(5, 3);
  request->target.time_to_first_token = absl::Milliseconds(500);  // took 1 s
  request->target.total = absl::Seconds(5);
  const Call finished = Send(std::move(request));
  request = MakeRequest(5, 600);
  request->target.time_to_first_token = absl::Seconds(5);
  request->target.time_per_output_token = absl::Seconds(5);
  request->target.total = absl::Seconds(5);  // how it would have come out?
  const Call cancelled = Send(std::move(request));
  loop_.Start();
  gate_.Allow(5);
  finished.sink->WaitUntilEnded();
  gate_.WaitForArrivals(6);
  Cancel(cancelled);
  gate_.Open();
  cancelled.sink->WaitUntilEnded();
  const auto count = [this](const std::string& outcome,
                            const std::string& target) {
    return Sum("sparseserve_latency_targets_total",
               "outcome=\"" + outcome + "\",target=\"" + target + "\"");
  };
  EXPECT_EQ(count("missed", "time_to_first_token"), 1);
  EXPECT_EQ(count("met", "time_to_first_token"), 1);
  EXPECT_EQ(count("met", "total"), 1);
  EXPECT_EQ(Sum("sparseserve_latency_targets_total"), 3);
}

TEST_F(ServingLoopTest, CountsWhatPromptsFind) {
  loop_.Start();
  gate_.Open();
  for (const int cached : {0, 192}) {
    const Call call = Send(MakeRequest(200, 1));
    call.sink->WaitUntilEnded();
    EXPECT_EQ(call.sink->report()->cached_prompt_tokens, cached);
  }
  EXPECT_EQ(Sum("sparseserve_prefix_cache_query_tokens_total"), 400);
  EXPECT_EQ(Sum("sparseserve_prefix_cache_hit_tokens_total"), 192);
  EXPECT_EQ(Sum("sparseserve_prompt_tokens_total", "source=\"computed\""), 208);
  EXPECT_EQ(Sum("sparseserve_prompt_tokens_total", "prefix_cache"), 192);
  EXPECT_EQ(Sum("sparseserve_kv_cache_pages", "state=\"cached\""), 3);
  EXPECT_EQ(Sum("sparseserve_kv_cache_pages", "state=\"free\""), kPages - 3);
}

TEST_F(ServingLoopTest, CountsStopsAndPagesThatWereGivenUp) {
  loop_.Start();
  std::vector<Call> calls;
  for (int i = 0; i < 3; ++i) {
    // Ten pages each at the end.
    std::unique_ptr<Request> request = MakeRequest(200, 440);
    request->prompt[0] = i;
    calls.push_back(Send(std::move(request)));
  }
  gate_.Open();
  for (const Call& call : calls) {
    call.sink->WaitUntilEnded();
    EXPECT_EQ(call.sink->token_ids().size(), 440u);
  }
  EXPECT_GT(Sum("sparseserve_preemptions_total"), 0);
  EXPECT_GT(Sum("sparseserve_kv_cache_evicted_pages_total"), 0);
  EXPECT_GT(Sum("sparseserve_wasted_tokens_total", "preempted"), 0);
  EXPECT_EQ(Sum("sparseserve_prefix_cache_query_tokens_total"), 600);
  EXPECT_EQ(Sum("sparseserve_prefix_cache_hit_tokens_total"), 0);
}

TEST_F(ServingLoopTest, WhatIsRefusedAtLastHearsItBeforeTheStepAndMissed) {
  std::vector<Call> running;
  for (int i = 0; i < 3; ++i) running.push_back(Send(MakeRequest(5, 600)));
  loop_.Start();
  gate_.WaitForArrivals(1);
  std::unique_ptr<Request> request = MakeRequest(5, 3);
  request->target = {.time_to_first_token = absl::Seconds(5),
                     .total = absl::Seconds(60),
                     .on_miss = OnMiss::kReject};
  const Call refused = Send(std::move(request));
  gate_.Allow(1);
  gate_.WaitForArrivals(2);
  SetTime(absl::FromUnixSeconds(1009));
  gate_.Allow(1);
  // The step that the refusal came before does not run yet.
  refused.sink->WaitUntilEnded();
  EXPECT_EQ(refused.sink->reason(), ErrorReason::kDeadlineUnmeetable);
  EXPECT_EQ(queue_.waiting(), 0);
  EXPECT_EQ(queue_.RetryAfter(absl::FromUnixSeconds(1009)),
            absl::Milliseconds(50));
  const auto targets = [this](const std::string& label) {
    return Sum("sparseserve_latency_targets_total", label);
  };
  EXPECT_EQ(targets("outcome=\"missed\",target=\"time_to_first_token\""), 1);
  EXPECT_EQ(targets(""), 1);
  for (const Call& call : running) Cancel(call);
}

TEST_F(ServingLoopTest, EveryRequestOfManyCallersEndsExactlyOnce) {
  constexpr int kCallers = 4;
  constexpr int kEach = 60;
  loop_.Start();
  gate_.Open();
  std::vector<std::vector<Call>> calls(kCallers);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([this, caller, &mine = calls[caller]] {
      for (int i = 0; i < kEach; ++i) {
        std::unique_ptr<Request> request =
            MakeRequest(1 + (i * 37 + caller) % 300, 1 + i % 40);
        request->stop_strings = {"qu", "x"};
        if (i % 7 == 0) request->sink = std::make_shared<RecordingSink>(3);
        Call call = {request->cancelled,
                     std::static_pointer_cast<RecordingSink>(request->sink)};
        while (queue_.Push(request) != Refusal::kNone) {
          std::this_thread::yield();
        }
        if (i % 5 == 0) {
          if (i % 2 == 0) call.sink->WaitForPieces(1);
          Cancel(call);
        }
        mine.push_back(std::move(call));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  queue_.StartDraining();
  loop_.Drain(absl::InfiniteFuture());
  for (const auto& mine : calls) {
    for (const Call& call : mine) {
      EXPECT_EQ(call.sink->ends(), 1);
      EXPECT_FALSE(call.sink->emitted_after_end());
    }
  }
  EXPECT_EQ(Sum("sparseserve_requests_finished_total"), kCallers * kEach);
  EXPECT_EQ(Sum("sparseserve_requests_cancelled_total"), Finished("cancelled"));
}

}  // namespace
}  // namespace sparseserve
