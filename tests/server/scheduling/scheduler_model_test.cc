// Random traffic against what must hold in every turn, whatever comes.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/policy/pattern_decision.h"
#include "server/scheduling/request_queue.h"
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

ModelInfo Model() {
  ModelInfo model;
  model.layers = 4;
  model.heads = 2;
  model.kv_heads = 1;
  return model;
}

// What requests ask for: without a plan and without a bound, by plans of two
// bounds and one name, dense in neither, one or both phases.
std::vector<PatternDecision> Decisions() {
  constexpr QualityClass kUnbounded = QualityClass::kUnbounded;
  const auto decide = [](std::string plan, const PatternSpec& pattern,
                         QualityClass bound) {
    PatternDecision decision = Decide(std::move(plan), pattern, Model());
    for (int phase = 0; phase < kPhases; ++phase) {
      if (!decision.is_dense[phase]) decision.quality[phase] = bound;
    }
    return decision;
  };
  return {decide(kDensePlan, DensePattern(), kUnbounded),
          decide("", XAttentionPattern(), kUnbounded),
          decide("", QuestPattern(), kUnbounded),
          decide("", SinkWindowPattern{64, 64}, kUnbounded),
          decide("", SinkWindowPattern{64, 128}, kUnbounded),
          decide("", TriShapePattern{.window_tokens = 64, .dense_blocks = 2},
                 kUnbounded),
          decide("plan", XAttentionPattern(), QualityClass::kHundredth),
          decide("plan", XAttentionPattern{.threshold = 0.5f},
                 QualityClass::kThreeHundredths),
          decide("other", MobaPattern(), QualityClass::kTenth)};
}

// A tenth under sanitizers, where an event takes twenty times as long.
#ifndef SPARSESERVE_MODEL_EVENTS
#define SPARSESERVE_MODEL_EVENTS 1'000'000
#endif
constexpr int64_t kEvents = SPARSESERVE_MODEL_EVENTS;

// One scheduler's life under random traffic.
class Episode {
 public:
  explicit Episode(uint32_t seed)
      : random_(seed),
        options_(RandomOptions()),
        executor_(options_.kv_pages, options_.max_step_tokens),
        scheduler_(*Scheduler::Create(options_, tokenizer_)),
        queue_({.max_requests = Uniform(1, 60),
                .max_tokens = 2 * longest_prompt_ * Uniform(1, 60),
                .per_caller = {.max_requests = Uniform(0, 20),
                               .max_tokens = Uniform(0, 1) * 5000}}) {
    executor_.slice_status = [this](const StepSlice&) {
      return OneIn(400) ? absl::InternalError("NaN") : absl::OkStatus();
    };
  }

  void Run(int requests) {
    while (static_cast<int>(requests_.size()) < requests) {
      Arrive(OneIn(3) ? Uniform(0, 6) : 0);
      Disturb();
      Turn();
      if (::testing::Test::HasFatalFailure()) return;
    }
    Drain();
  }

  // Others come as long as any of the first `requests` has not ended: none may
  // starve. Without a share for it, what cannot be met may.
  void RunBesideOthers(int requests, int most_turns) {
    int turns = 0;
    int first = 0;  // of those that have not ended
    while (first < requests) {
      if (first < static_cast<int>(requests_.size())) {
        const Tracked& tracked = requests_[first];
        if (tracked.sink->ends() > 0 ||
            (options_.best_effort_share == 0 && tracked.has_target)) {
          ++first;
          continue;
        }
      }
      ASSERT_LT(turns++, most_turns) << "request " << first + 1;
      only_meetable_ = static_cast<int>(requests_.size()) >= requests;
      Arrive(std::max(0, 8 - scheduler_->waiting()));
      Turn();
      if (::testing::Test::HasFatalFailure()) return;
    }
    Drain();
  }

  void Drain() {
    while (!scheduler_->idle()) {
      Disturb();
      Turn();
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(queue_.waiting(), 0);
    for (const std::string caller : {"", "a", "b"}) {
      EXPECT_EQ(queue_.WouldRefuse(caller, 1), Refusal::kNone);
    }
    const PagePool& pages = scheduler_->pages();
    EXPECT_EQ(pages.free() + pages.cached(), options_.kv_pages);
    EXPECT_THAT(executor_.breaches(), IsEmpty());
    for (const Tracked& tracked : requests_) {
      EXPECT_EQ(tracked.sink->ends(), 1);
      EXPECT_FALSE(tracked.sink->emitted_after_end());
    }
  }

  int finished() const { return finished_; }
  int disturbed() const { return disturbed_; }
  int preempted() const { return preempted_; }
  // Tokens that prompts found, and those that stopped sequences ran again.
  int64_t hit_tokens() const { return hit_tokens_; }
  int64_t recomputed_tokens() const { return recomputed_tokens_; }
  // Tokens of prompts that began with what others computed otherwise, and of
  // ends of prompts that stopped sequences found.
  int64_t others_hits() const { return others_hits_; }
  int64_t own_hits() const { return own_hits_; }
  // Tokens that requests found again which are measured.
  int64_t measured_hits() const { return measured_hits_; }
  // Those that the queue did not take.
  int refused() const { return refused_; }
  // What happened: arrivals, cancellations, steps, failures, ends.
  int64_t events() const { return events_; }

 private:
  struct Tracked {
    std::shared_ptr<RecordingSink> sink;
    std::shared_ptr<std::atomic<bool>> cancelled;
    std::vector<TokenId> prompt;
    std::vector<TokenId> undisturbed;
    absl::Time deadline;
    bool is_whole;
    bool has_target;
    std::string salt;
    PatternDecision attention;
    int decision = 0;
    bool must_reproduce = false;
    bool is_measured = false;
    int had_tokens = 0;   // computed, when it was last in a plan
    int most_tokens = 0;  // that it ever had
    uint64_t value = 0;   // of the last of these
    // From here on its prompt was cut elsewhere than its pattern may be.
    int first_cut = std::numeric_limits<int>::max();
    bool was_cut = false;
    bool has_others = false;  // began with what it would not have computed
  };

  // What stands in a page for a token.
  struct Row {
    // Of what decides on its bits: all rows before it, its token, and how it
    // came about.
    uint64_t value = 0;
    SequenceId writer = 0;
    int plan = 0;  // of decisions_; 0 where it is dense
    QualityClass quality = QualityClass::kExact;
    char salt = '\0';
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
    options.context_tokens = Uniform(2, 1000);
    options.kv_pages = Uniform(1, OneIn(2) ? 20 : 80);
    if (is_storm_) {
      options.max_running_sequences = Uniform(4, 8);
      options.max_step_tokens = options.max_running_sequences + 127;
      options.context_tokens = 1000;
      options.kv_pages = Uniform(16, 30);
    }
    options.keeps_prefixes = !OneIn(6);
    if (OneIn(3)) {  // everything collides
      options.prefix_index.hash = [](int64_t, absl::Span<const TokenId>) {
        return uint64_t{1};
      };
    }
    options.best_effort_share = OneIn(3) ? 0 : 0.01 * Uniform(1, 100);
    options.step_time_target = absl::Milliseconds(Uniform(1, 40));
    options.ageing_period = absl::Milliseconds(Uniform(10, 2000));
    options.whole_prompt_patience = absl::Milliseconds(Uniform(0, 400));
    return options;
  }

  void Arrive(int count) {
    for (int i = 0; i < count; ++i) {
      auto request = std::make_unique<Request>();
      const int longest = scheduler_->max_request_tokens() - 1;
      const int prompt = OneIn(3)
                             ? Uniform(1, longest)
                             : Uniform(1, std::min(longest, longest_prompt_));
      request->prompt = RandomPrompt(prompt);
      if (OneIn(2)) request->cache_salt = std::string(1, Uniform('a', 'b'));
      request->seed_was_given = OneIn(3);
      if (OneIn(3)) request->sampling.temperature = 0;
      request->arrival = now_;
      request->max_output_tokens = Uniform(1, OneIn(2) ? longest_output_ : 20);
      if (OneIn(3)) request->stop_token_ids = {'q', 'z'};
      const int decision =
          OneIn(2) ? 0 : Uniform(0, static_cast<int>(decisions_.size()) - 1);
      request->attention = decisions_[decision];
      if (OneIn(8)) {
        request->measured = FollowedHeadsOf(request->attention.choice, Model());
      }
      if (OneIn(4)) {
        request->attention.traits.chunk_border_tokens = Uniform(1, 300);
      }
      request->attention.traits.is_selection_causal =
          prompt > options_.max_step_tokens || !OneIn(6);
      if (OneIn(6)) {
        request->target.time_per_output_token =
            absl::Milliseconds(Uniform(1, 100));
      }
      if (OneIn(3) && !only_meetable_) {
        request->target.time_to_first_token =
            absl::Milliseconds(Uniform(1, 400));
      }
      if (OneIn(4)) request->target.on_miss = OnMiss::kReject;
      if (OneIn(3)) request->priority = Uniform(-2, 2);
      if (is_storm_) {
        request->max_output_tokens = Uniform(100, 300);
        request->target = {};
        request->priority = 0;
      } else if (OneIn(5)) {
        request->deadline = now_ + absl::Milliseconds(Uniform(0, 300));
      }
      auto sink =
          std::make_shared<RecordingSink>(OneIn(8) ? Uniform(0, 9) : 1'000'000);
      request->sink = sink;
      if (!OneIn(3)) request->caller = std::string(1, Uniform('a', 'b'));
      ++events_;
      Tracked tracked = {
          sink,
          request->cancelled,
          request->prompt,
          UndisturbedOutput(*request, scheduler_->max_request_tokens()),
          request->deadline,
          !request->attention.traits.is_selection_causal,
          request->target.is_named(),
          request->cache_salt,
          request->attention,
          decision,
          request->seed_was_given || request->sampling.temperature == 0,
          request->measured.has_value()};
      if (queue_.Push(request) == Refusal::kNone) {
        requests_.push_back(std::move(tracked));
      } else {
        ++refused_;
      }
    }
    scheduler_->Admit(queue_.TakeAll(), now_);
  }

  // Half begin with one of three texts, or with what was written before.
  std::vector<TokenId> RandomPrompt(int tokens) {
    std::vector<TokenId> prompt;
    if (OneIn(3)) {
      prompt.assign(Uniform(0, tokens), 'a' + Uniform(0, 2));
    } else if (OneIn(3) && !requests_.empty()) {
      const int latest = static_cast<int>(requests_.size()) - 1;
      const Tracked& earlier =
          requests_[Uniform(std::max(0, latest - 5), latest)];
      prompt = earlier.prompt;
      prompt.insert(prompt.end(), earlier.undisturbed.begin(),
                    earlier.undisturbed.end());
      prompt.resize(std::min<size_t>(prompt.size(), tokens));
    }
    while (static_cast<int>(prompt.size()) < tokens) {
      prompt.push_back(Uniform(0, 255));
    }
    return prompt;
  }

  void Disturb() {
    if (requests_.empty() || !OneIn(turns_a_cancellation_)) return;
    // One of the latest: most of the others have ended.
    const int last = static_cast<int>(requests_.size()) - 1;
    *requests_[Uniform(std::max(0, last - 20), last)].cancelled = true;
    ++events_;
  }

  void Turn() {
    now_ += absl::Milliseconds(Uniform(0, 20));
    scheduler_->Sweep(now_);
    TakeEnded();
    const StepPlan plan = scheduler_->PlanStep(now_);
    for (const Request* request : scheduler_->started()) {
      queue_.Started(*request, now_);
    }
    TakeEnded();
    ASSERT_EQ(plan.slices.empty(), scheduler_->idle());
    preempted_ += static_cast<int>(scheduler_->preempted_tokens().size());
    recomputed_tokens_ += scheduler_->recomputed_tokens();
    hit_tokens_ += scheduler_->TakePageCounts().hit_tokens;
    if (plan.slices.empty()) return;
    CheckPlan(plan);
    ++events_;

    if (OneIn(2000)) {  // the device fails
      scheduler_->EndAll(Ending::kDeviceFailed, now_);
      TakeEnded();
      return;
    }
    const StepResult result = *executor_.Step(plan);
    now_ += absl::Milliseconds(Uniform(1, 20));
    for (Scheduler::Output& output : scheduler_->Commit(result, now_)) {
      if (output.piece.token_ids.empty()) continue;
      if (!output.sequence->request().sink->Emit(std::move(output.piece))) {
        output.sequence->End(Ending::kSlowConsumer, now_);
      }
    }
    if (OneIn(2000)) scheduler_->EndAll(Ending::kDraining, now_);
    TakeEnded();
    const absl::Status invariants = scheduler_->CheckInvariants();
    ASSERT_TRUE(invariants.ok()) << invariants;
  }

  // What ended, was cancelled or is past its deadline does not run. What had a
  // token before has one in every step, unless pages ran out, or in every other
  // one if a prompt that may not be cut takes the rows; somebody always moves
  // on.
  void CheckPlan(const StepPlan& plan) {
    std::set<SequenceId> planned;
    bool has_whole = false;
    for (const StepSlice& slice : plan.slices) {
      ASSERT_TRUE(planned.insert(slice.sequence).second);
      const Tracked& tracked = requests_[slice.sequence - 1];
      ASSERT_FALSE(*tracked.cancelled);
      ASSERT_GT(tracked.deadline, now_);
      ASSERT_EQ(tracked.sink->ends(), 0);
      if (tracked.is_whole && slice.phase == Phase::kPrefill) has_whole = true;
      CheckPages(slice);
    }
    std::set<SequenceId> held;
    if (scheduler_->preempted() == 0) {
      for (const SequenceId id : decoding_) {
        if (planned.contains(id)) continue;
        ASSERT_TRUE(has_whole) << id;
        ASSERT_FALSE(held_.contains(id)) << id;
        held.insert(id);
      }
    } else {
      // Maybe stopped: it has tokens again from the step that draws one.
      std::erase_if(decoding_,
                    [&](SequenceId id) { return !planned.contains(id); });
    }
    held_ = std::move(held);
    for (const StepSlice& slice : plan.slices) {
      if (slice.wants_token) {
        decoding_.insert(slice.sequence);
      } else {
        decoding_.erase(slice.sequence);  // it was stopped, and catches up
      }
    }
  }

  // The row of a sequence at a position, behind one of value `before`.
  Row MakeRow(SequenceId sequence, int position, uint64_t before) const {
    const Tracked& tracked = requests_[sequence - 1];
    const int prompt = static_cast<int>(tracked.prompt.size());
    const bool is_output = position >= prompt;
    const int phase =
        static_cast<int>(is_output ? Phase::kDecode : Phase::kPrefill);
    Row row;
    row.writer = sequence;
    row.plan = tracked.attention.is_dense[phase] ? 0 : tracked.decision;
    row.quality = tracked.attention.quality[phase];
    row.salt = tracked.salt.empty() ? '\0' : tracked.salt[0];
    // Of output, and where a prompt was cut, nobody knows what others would
    // have computed.
    const bool is_its_own = is_output || position >= tracked.first_cut;
    const TokenId token = is_output ? tracked.undisturbed[position - prompt]
                                    : tracked.prompt[position];
    row.value = before;
    const bool is_end = !is_output && position >= FirstEnd(tracked);
    for (const uint64_t part : {uint64_t{1} * token, uint64_t{1} * row.plan,
                                uint64_t{2} * is_output + is_end,
                                uint64_t{1} * row.writer * is_its_own}) {
      row.value = (row.value ^ part) * 1099511628211u;  // FNV-1a
    }
    return row;
  }

  // From here on the prompt's rows see other keys than a longer one's.
  static int FirstEnd(const Tracked& tracked) {
    if (tracked.attention.prompt_end_blocks == 0) {
      return std::numeric_limits<int>::max();
    }
    const int last =
        (static_cast<int>(tracked.prompt.size()) - 1) / kPageTokens;
    return std::max(last + 1 - tracked.attention.prompt_end_blocks, 0) *
           kPageTokens;
  }

  static uint64_t FirstValue(const Tracked& tracked) {
    return 14695981039346656037u + tracked.salt.size() +
           (tracked.salt.empty() ? 0 : 2 * tracked.salt[0]);
  }

  Row& RowAt(const StepSlice& slice, int position) {
    return rows_[int64_t{slice.pages[position / kPageTokens]} * kPageTokens +
                 position % kPageTokens];
  }

  // What a slice reads and did not write is its caller's, as good as it asks
  // for, and the same to the bit if it is to reproduce.
  void CheckPages(const StepSlice& slice) {
    Tracked& tracked = requests_[slice.sequence - 1];
    const int begin = slice.first_position;
    const int end = begin + static_cast<int>(slice.tokens.size());
    const bool begins = begin == 0 || begin != tracked.had_tokens;
    if (begins) {
      if (begin <= tracked.first_cut) {
        tracked.first_cut = std::numeric_limits<int>::max();
      }
      CheckHit(slice);
    } else if (!tracked.was_cut) {
      // Also if another's page took the place of its own.
      ASSERT_EQ(RowAt(slice, begin - 1).value, tracked.value);
    }
    const int prompt = static_cast<int>(tracked.prompt.size());
    const int border =
        std::max(tracked.attention.traits.chunk_border_tokens, 1);
    if (begin < prompt && end < prompt && end % border != 0) {
      tracked.first_cut = std::min(tracked.first_cut, end / border * border);
      tracked.was_cut = true;
    }
    uint64_t value =
        begin == 0 ? FirstValue(tracked) : RowAt(slice, begin - 1).value;
    for (int position = begin; position < end; ++position) {
      Row& row = RowAt(slice, position);
      row = MakeRow(slice.sequence, position, value);
      value = row.value;
    }
    tracked.had_tokens = end;
    tracked.most_tokens = std::max(tracked.most_tokens, end);
    tracked.value = value;
  }

  void CheckHit(const StepSlice& slice) {
    Tracked& tracked = requests_[slice.sequence - 1];
    const auto prompt_phase = static_cast<int>(Phase::kPrefill);
    const auto output_phase = static_cast<int>(Phase::kDecode);
    const PatternDecision& attention = tracked.attention;
    if (tracked.is_measured) {
      ASSERT_LE(slice.first_position, tracked.most_tokens);
      measured_hits_ += slice.first_position;
    }
    uint64_t before = FirstValue(tracked);
    bool is_same = true;
    for (int position = 0; position < slice.first_position; ++position) {
      const Row& row = RowAt(slice, position);
      const Row own = MakeRow(slice.sequence, position, before);
      ASSERT_EQ(row.salt, own.salt);
      before = own.value;
      if (row.writer == slice.sequence) {
        own_hits_ += is_same && position >= FirstEnd(tracked);
        continue;
      }
      is_same &= row.value == own.value;
      ASSERT_LT(position, FirstEnd(tracked));
      const bool is_of_its_plans =
          row.plan ==
              (attention.is_dense[prompt_phase] ? 0 : tracked.decision) ||
          row.plan == (attention.is_dense[output_phase] ? 0 : tracked.decision);
      const bool is_good = row.quality != QualityClass::kUnbounded &&
                           row.quality <= attention.quality[prompt_phase];
      ASSERT_TRUE(is_of_its_plans || is_good)
          << position << " of " << tracked.decision << " by " << row.plan;
    }
    if (!is_same && !tracked.was_cut) {
      ASSERT_FALSE(tracked.must_reproduce) << slice.first_position;
      tracked.has_others = true;
      others_hits_ += slice.first_position;
    }
  }

  void TakeEnded() {
    for (const auto& sequence : scheduler_->TakeEnded()) {
      decoding_.erase(sequence->id());
      ++events_;
      if (sequence->progress() == Progress::kWaiting) {
        queue_.Dropped(sequence->request());
      }
      queue_.Finished(sequence->request());
      const Tracked& tracked = requests_[sequence->id() - 1];
      const std::vector<TokenId> ids = tracked.sink->token_ids();
      ASSERT_EQ(sequence->lease().size(), 0);
      if (sequence->ending() == Ending::kFinished) {
        ++finished_;
        ASSERT_EQ(ids, tracked.undisturbed);
        const FinishReport report = sequence->Report();
        if (tracked.has_others) {
          ASSERT_FALSE(report.reproducible);
        }
        if (tracked.must_reproduce && !tracked.was_cut &&
            sequence->preemptions() == 0) {
          ASSERT_TRUE(report.reproducible);
        }
        tracked.sink->Finish(report);
      } else {
        ++disturbed_;
        ASSERT_LE(ids.size(), tracked.undisturbed.size());
        ASSERT_TRUE(
            std::equal(ids.begin(), ids.end(), tracked.undisturbed.begin()));
        tracked.sink->Fail(FailureOf(sequence->ending(), sequence->progress()));
      }
    }
  }

  std::mt19937 random_;
  // Everybody stays and writes much, and pages run out.
  const bool is_storm_ = OneIn(3);
  // Where most are cancelled early, few grow until pages run out.
  const int turns_a_cancellation_ = !is_storm_ && OneIn(2) ? 6 : 300;
  // Where prompts are long, some are found again.
  const int longest_prompt_ = OneIn(2) ? 70 : 400;
  const int longest_output_ = longest_prompt_ == 70 ? 800 : 300;
  const Scheduler::Options options_;
  FakeTokenizer tokenizer_;
  FakeExecutor executor_;
  std::unique_ptr<Scheduler> scheduler_;
  RequestQueue queue_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  bool only_meetable_ = false;     // who arrives has no target
  std::vector<Tracked> requests_;  // of sequence i + 1
  // Those that run or wait and have had a token.
  std::set<SequenceId> decoding_;
  std::set<SequenceId> held_;  // of these, not in the latest step
  int finished_ = 0;
  int disturbed_ = 0;
  int preempted_ = 0;
  int refused_ = 0;
  int64_t hit_tokens_ = 0;
  int64_t recomputed_tokens_ = 0;
  int64_t others_hits_ = 0;
  int64_t own_hits_ = 0;
  int64_t measured_hits_ = 0;
  const std::vector<PatternDecision> decisions_ = Decisions();
  std::vector<Row> rows_ =
      std::vector<Row>(int64_t{options_.kv_pages} * kPageTokens);
  int64_t events_ = 0;
};

TEST(SchedulerModelTest, RandomTrafficKeepsEveryInvariant) {
  int64_t events = 0;
  int finished = 0;
  int disturbed = 0;
  int preempted = 0;
  int refused = 0;
  int64_t hit_tokens = 0;
  int64_t recomputed_tokens = 0;
  int64_t others_hits = 0;
  int64_t own_hits = 0;
  int64_t measured_hits = 0;
  for (uint32_t seed = 1; events < kEvents; ++seed) {
    SCOPED_TRACE(seed);
    Episode episode(seed);
    episode.Run(400);
    if (HasFailure()) return;
    events += episode.events();
    finished += episode.finished();
    disturbed += episode.disturbed();
    preempted += episode.preempted();
    refused += episode.refused();
    hit_tokens += episode.hit_tokens();
    recomputed_tokens += episode.recomputed_tokens();
    others_hits += episode.others_hits();
    own_hits += episode.own_hits();
    measured_hits += episode.measured_hits();
  }
  // All kinds must have been tried for this to mean something.
  EXPECT_GT(finished, kEvents / 100);
  EXPECT_GT(disturbed, kEvents / 100);
  EXPECT_GT(preempted, kEvents / 10'000);
  EXPECT_GT(refused, kEvents / 1000);
  EXPECT_GT(hit_tokens, kEvents / 200);
  EXPECT_GT(recomputed_tokens, kEvents / 1000);
  EXPECT_GT(others_hits, kEvents / 1000);
  // Too rare for the tenth of the events that sanitizers are given.
  if (kEvents >= 1'000'000) {
    EXPECT_GT(own_hits, kEvents / 10'000);
    EXPECT_GT(measured_hits, kEvents / 10'000);
  }
}

TEST(SchedulerModelTest, NothingStarvesWhileOthersKeepComing) {
  for (uint32_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    Episode(seed).RunBesideOthers(40, 30'000);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace sparseserve
