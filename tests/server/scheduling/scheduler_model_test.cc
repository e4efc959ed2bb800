// Random traffic against what must hold in every turn, whatever comes.

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/sequence.h"
#include "tests/testing/fake_executor.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

using testing::FakeExecutor;
using testing::FakeTokenizer;
using ::testing::IsEmpty;
using testing::RecordingSink;

// What the fake model writes for a request that nothing disturbs.
std::vector<TokenId> UndisturbedOutput(const Request& request,
                                       int max_request_tokens) {
  std::vector<TokenId> tokens = request.prompt;
  std::vector<TokenId> output;
  while (static_cast<int>(output.size()) < request.max_output_tokens &&
         static_cast<int>(tokens.size()) < max_request_tokens) {
    const TokenId token = FakeExecutor::NextToken(tokens);
    if (std::find(request.stop_token_ids.begin(), request.stop_token_ids.end(),
                  token) != request.stop_token_ids.end()) {
      break;
    }
    tokens.push_back(token);
    output.push_back(token);
  }
  return output;
}

// One scheduler's life under random traffic.
class Episode {
 public:
  explicit Episode(uint32_t seed)
      : random_(seed),
        options_(RandomOptions()),
        executor_(options_.kv_pages, options_.max_step_tokens),
        scheduler_(*Scheduler::Create(options_, tokenizer_)) {
    executor_.slice_status = [this](const StepSlice&) {
      return OneIn(400) ? absl::InternalError("NaN") : absl::OkStatus();
    };
  }

  void Run(int requests) {
    while (static_cast<int>(requests_.size()) < requests ||
           !scheduler_->idle()) {
      if (static_cast<int>(requests_.size()) < requests) Arrive();
      Disturb();
      Turn();
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(scheduler_->pages().free(), options_.kv_pages);
    EXPECT_THAT(executor_.breaches(), IsEmpty());
    for (const Tracked& tracked : requests_) {
      EXPECT_EQ(tracked.sink->ends(), 1);
      EXPECT_FALSE(tracked.sink->emitted_after_end());
    }
  }

  int finished() const { return finished_; }
  int disturbed() const { return disturbed_; }

 private:
  struct Tracked {
    std::shared_ptr<RecordingSink> sink;
    std::shared_ptr<std::atomic<bool>> cancelled;
    std::vector<TokenId> undisturbed;
    absl::Time deadline;
  };

  int Uniform(int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random_);
  }
  bool OneIn(int n) { return Uniform(1, n) == 1; }

  Scheduler::Options RandomOptions() {
    Scheduler::Options options;
    options.max_running_sequences = Uniform(1, 9);
    options.max_step_tokens =
        options.max_running_sequences + 63 + (OneIn(2) ? 0 : Uniform(0, 300));
    options.context_tokens = Uniform(2, 600);
    options.kv_pages = Uniform(1, 20);
    return options;
  }

  void Arrive() {
    std::vector<std::unique_ptr<Request>> arrived;
    const int count = OneIn(3) ? Uniform(0, 6) : 0;
    for (int i = 0; i < count; ++i) {
      auto request = std::make_unique<Request>();
      const int longest = scheduler_->max_request_tokens() - 1;
      const int prompt =
          OneIn(3) ? Uniform(1, longest) : Uniform(1, std::min(longest, 70));
      for (int t = 0; t < prompt; ++t) {
        request->prompt.push_back(Uniform(0, 255));
      }
      request->arrival = now_;
      request->max_output_tokens = Uniform(1, OneIn(4) ? 200 : 20);
      if (OneIn(3)) request->stop_token_ids = {'q', 'z'};
      if (OneIn(4)) {
        request->attention.traits.chunk_border_tokens = Uniform(1, 300);
      }
      request->attention.traits.is_selection_causal =
          prompt > options_.max_step_tokens || !OneIn(6);
      if (OneIn(6)) request->target.time_per_output_token = absl::Seconds(1);
      if (OneIn(5)) {
        request->deadline = now_ + absl::Milliseconds(Uniform(0, 300));
      }
      auto sink =
          std::make_shared<RecordingSink>(OneIn(8) ? Uniform(0, 9) : 1'000'000);
      request->sink = sink;
      requests_.push_back(
          {sink, request->cancelled,
           UndisturbedOutput(*request, scheduler_->max_request_tokens()),
           request->deadline});
      arrived.push_back(std::move(request));
    }
    scheduler_->Admit(std::move(arrived));
  }

  void Disturb() {
    if (requests_.empty() || !OneIn(6)) return;
    *requests_[Uniform(0, static_cast<int>(requests_.size()) - 1)].cancelled =
        true;
  }

  void Turn() {
    now_ += absl::Milliseconds(Uniform(0, 20));
    scheduler_->Sweep(now_);
    TakeEnded();
    const StepPlan plan = scheduler_->PlanStep(now_);
    ASSERT_EQ(plan.slices.empty(), scheduler_->idle());
    if (plan.slices.empty()) return;
    CheckFairness(plan);

    const StepResult result = *executor_.Step(plan);
    now_ += absl::Milliseconds(Uniform(1, 20));
    for (Scheduler::Output& output : scheduler_->Commit(result, now_)) {
      if (output.piece.token_ids.empty()) continue;
      if (!output.sequence->request().sink->Emit(std::move(output.piece))) {
        output.sequence->End(Ending::kSlowConsumer, now_);
      }
    }
    if (OneIn(500)) scheduler_->EndAll(Ending::kDraining, now_);
    TakeEnded();
    const absl::Status invariants = scheduler_->CheckInvariants();
    ASSERT_TRUE(invariants.ok()) << invariants;
  }

  // Late and cancelled work does not run; whatever has had its first token gets
  // one now; a prompt that is half-way moves, and there is no second one;
  // starts are in order of arrival.
  void CheckFairness(const StepPlan& plan) {
    std::set<SequenceId> planned;
    SequenceId first_prefill = 0;
    for (const StepSlice& slice : plan.slices) {
      planned.insert(slice.sequence);
      const Tracked& tracked = requests_[slice.sequence - 1];
      ASSERT_FALSE(*tracked.cancelled);
      ASSERT_GT(tracked.deadline, now_);
      if (slice.phase == Phase::kPrefill) {
        if (first_prefill == 0) first_prefill = slice.sequence;
        if (slice.first_position == 0) {
          ASSERT_GT(slice.sequence, last_started_);
          last_started_ = slice.sequence;
        }
      }
    }
    for (const SequenceId id : decoding_) ASSERT_TRUE(planned.contains(id));
    if (!prefilling_.empty()) {
      ASSERT_EQ(first_prefill, *prefilling_.begin());
    }
    for (const StepSlice& slice : plan.slices) {
      prefilling_.erase(slice.sequence);
      (slice.wants_token ? decoding_ : prefilling_).insert(slice.sequence);
    }
    ASSERT_LE(prefilling_.size(), 1u);
  }

  void TakeEnded() {
    for (const auto& sequence : scheduler_->TakeEnded()) {
      decoding_.erase(sequence->id());
      prefilling_.erase(sequence->id());
      const Tracked& tracked = requests_[sequence->id() - 1];
      const std::vector<TokenId> ids = tracked.sink->token_ids();
      ASSERT_EQ(sequence->lease().size(), 0);
      if (sequence->ending() == Ending::kFinished) {
        ++finished_;
        ASSERT_EQ(ids, tracked.undisturbed);
        tracked.sink->Finish(sequence->Report());
      } else {
        ++disturbed_;
        ASSERT_LE(ids.size(), tracked.undisturbed.size());
        ASSERT_TRUE(
            std::equal(ids.begin(), ids.end(), tracked.undisturbed.begin()));
        const Failure failure =
            FailureOf(sequence->ending(), sequence->progress());
        tracked.sink->Fail(failure.status, failure.reason);
      }
    }
  }

  std::mt19937 random_;
  const Scheduler::Options options_;
  FakeTokenizer tokenizer_;
  FakeExecutor executor_;
  std::unique_ptr<Scheduler> scheduler_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::vector<Tracked> requests_;  // of sequence i + 1
  // Running sequences by what they did last.
  std::set<SequenceId> decoding_;
  std::set<SequenceId> prefilling_;
  SequenceId last_started_ = 0;
  int finished_ = 0;
  int disturbed_ = 0;
};

TEST(SchedulerModelTest, RandomTrafficKeepsEveryInvariant) {
  int finished = 0;
  int disturbed = 0;
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    Episode episode(seed);
    episode.Run(100);
    if (HasFailure()) return;
    finished += episode.finished();
    disturbed += episode.disturbed();
  }
  EXPECT_GE(finished + disturbed, 6000);
  // Both kinds must have been tried for this to mean something.
  EXPECT_GT(finished, 1000);
  EXPECT_GT(disturbed, 1000);
}

}  // namespace
}  // namespace sparseserve
