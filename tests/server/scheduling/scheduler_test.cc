#include "server/scheduling/scheduler.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/profile/attention_profile.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduling/sequence.h"
#include "tests/testing/fake_executor.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::FakeExecutor;
using testing::FakeTokenizer;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RecordingSink;

absl::Time At(int seconds) { return absl::FromUnixSeconds(1000 + seconds); }

std::unique_ptr<Request> MakeRequest(int prompt_tokens, int max_output) {
  auto request = std::make_unique<Request>();
  request->arrival = At(0);
  request->prompt.assign(prompt_tokens, 'p');
  request->max_output_tokens = max_output;
  request->sink = std::make_shared<RecordingSink>();
  return request;
}

// "1:d70" decodes at position 70; "2:[0,64)" is a chunk, "2:[64,70)!" the last
// one of its prompt.
std::string Describe(const StepPlan& plan) {
  std::vector<std::string> slices;
  for (const StepSlice& slice : plan.slices) {
    const int first = slice.first_position;
    slices.push_back(slice.phase == Phase::kDecode
                         ? absl::StrCat(slice.sequence, ":d", first)
                         : absl::StrCat(slice.sequence, ":[", first, ",",
                                        first + slice.tokens.size(), ")",
                                        slice.wants_token ? "!" : ""));
  }
  return absl::StrJoin(slices, " ");
}

// A scheduler and a model, turn by turn.
class Turns {
 public:
  explicit Turns(const Scheduler::Options& options)
      : executor_(options.kv_pages, options.max_step_tokens),
        scheduler_(*Scheduler::Create(options, tokenizer_)) {}

  // Returns the request, which lives until TakeEnded().
  const Request& Add(std::unique_ptr<Request> request, absl::Time now = At(0)) {
    const Request& added = *request;
    std::vector<std::unique_ptr<Request>> requests;
    requests.push_back(std::move(request));
    scheduler_->Admit(std::move(requests), now);
    return added;
  }
  const Request& AddAt(std::unique_ptr<Request> request, absl::Time now) {
    request->arrival = now;
    return Add(std::move(request), now);
  }
  std::string Turn(absl::Time now = At(1)) {
    scheduler_->Sweep(now);
    TakeEnded();
    const StepPlan plan = scheduler_->PlanStep(now);
    if (plan.slices.empty()) return "";
    const std::string description = Describe(plan);
    Run(plan, now);
    return description;
  }
  // What a plan's spans point to is gone.
  StepPlan PlanAndRun(absl::Time now) {
    scheduler_->Sweep(now);
    StepPlan plan = scheduler_->PlanStep(now);
    Run(plan, now);
    return plan;
  }
  // "id:ending" of what ended so far.
  const std::vector<std::string>& ended() const { return ended_; }

  Scheduler& scheduler() { return *scheduler_; }
  FakeExecutor& executor() { return executor_; }

 private:
  void Run(const StepPlan& plan, absl::Time now) {
    outputs_ = scheduler_->Commit(*executor_.Step(plan), now);
    TakeEnded();
    EXPECT_TRUE(scheduler_->CheckInvariants().ok());
    EXPECT_THAT(executor_.breaches(), IsEmpty());
  }
  void TakeEnded() {
    for (const auto& sequence : scheduler_->TakeEnded()) {
      ended_.push_back(absl::StrCat(sequence->id(), ":",
                                    static_cast<int>(sequence->ending())));
    }
  }

  FakeTokenizer tokenizer_;
  FakeExecutor executor_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Scheduler::Output> outputs_;
  std::vector<std::string> ended_;
};

std::string Ended(SequenceId id, Ending ending) {
  return absl::StrCat(id, ":", static_cast<int>(ending));
}

struct Arrival {
  int turn;
  int prompt_tokens;
  int max_output;
};
struct PlanRow {
  std::string name;
  Scheduler::Options options;
  std::vector<Arrival> arrivals;
  std::vector<std::string> plans;  // one per turn
};

class SchedulerPlanTest : public ::testing::TestWithParam<PlanRow> {};

TEST_P(SchedulerPlanTest, PlansTurnByTurn) {
  const PlanRow& row = GetParam();
  Turns turns(row.options);
  std::vector<std::string> plans;
  for (int turn = 0; turn < static_cast<int>(row.plans.size()); ++turn) {
    for (const Arrival& arrival : row.arrivals) {
      if (arrival.turn != turn) continue;
      turns.Add(MakeRequest(arrival.prompt_tokens, arrival.max_output));
    }
    plans.push_back(turns.Turn());
  }
  EXPECT_THAT(plans, ::testing::ElementsAreArray(row.plans));
}

const Scheduler::Options kRoomy = {.max_step_tokens = 256,
                                   .max_running_sequences = 8,
                                   .context_tokens = 1024,
                                   .kv_pages = 64};
const Scheduler::Options kNarrow = {.max_step_tokens = 128,
                                    .max_running_sequences = 8,
                                    .context_tokens = 1024,
                                    .kv_pages = 64};
const Scheduler::Options kTwoAtOnce = {.max_step_tokens = 256,
                                       .max_running_sequences = 2,
                                       .context_tokens = 1024,
                                       .kv_pages = 64};
const Scheduler::Options kThreePages = {.max_step_tokens = 256,
                                        .max_running_sequences = 8,
                                        .context_tokens = 192,
                                        .kv_pages = 3};

const PlanRow kPlanRows[] = {
    {"NothingToDo", kRoomy, {}, {"", ""}},
    {"OnePromptThenItsDecodes",
     kRoomy,
     {{0, 10, 3}},
     {"1:[0,10)!", "1:d10", "1:d11", ""}},
    {"SeveralPromptsInOneStep",
     kRoomy,
     {{0, 10, 1}, {0, 100, 1}, {0, 20, 1}},
     {"1:[0,10)! 2:[0,100)! 3:[0,20)!", ""}},
    {"LongPromptInChunksThatEndOnPages",
     kNarrow,
     {{0, 300, 2}},
     {"1:[0,128)", "1:[128,256)", "1:[256,300)!", "1:d300", ""}},
    {"PromptOfWholePages",
     kNarrow,
     {{0, 128, 1}, {1, 129, 1}},
     {"1:[0,128)!", "2:[0,128)", "2:[128,129)!", ""}},
    {"DecodesBeforeChunks",
     kNarrow,
     {{0, 5, 3}, {1, 200, 1}},
     {"1:[0,5)!", "1:d5 2:[0,64)", "1:d6 2:[64,128)", "2:[128,200)!", ""}},
    {"DecodesInOrderOfArrival",
     kRoomy,
     {{0, 5, 3}, {1, 6, 2}},
     {"1:[0,5)!", "1:d5 2:[0,6)!", "1:d6 2:d6", ""}},
    {"LeftoverOfAChunkGoesToTheNextPrompt",
     kRoomy,
     {{0, 100, 1}, {0, 400, 1}},
     {"1:[0,100)! 2:[0,128)", "2:[128,384)", "2:[384,400)!", ""}},
    {"ShortPromptDoesNotOvertake",
     kNarrow,
     {{0, 100, 1}, {0, 70, 1}, {0, 5, 1}},
     {"1:[0,100)!", "2:[0,70)! 3:[0,5)!", ""}},
    {"EarlierPromptGoesOnBeforeLaterOnesStart",
     kNarrow,
     {{0, 192, 1}, {1, 100, 1}},
     {"1:[0,128)", "1:[128,192)! 2:[0,64)", "2:[64,100)!", ""}},
    {"NoMoreRunThanAllowed",
     kTwoAtOnce,
     {{0, 5, 2}, {0, 6, 3}, {0, 7, 1}},
     {"1:[0,5)! 2:[0,6)!", "1:d5 2:d6", "2:d7 3:[0,7)!", ""}},
    {"WaitsUntilPagesForItsWholeLengthAreFree",
     kThreePages,
     {{0, 100, 2}, {0, 10, 100}},
     {"1:[0,100)!", "1:d100", "2:[0,10)!", "2:d10"}},
    {"WhatWouldFitDoesNotOvertakeWhatWaitsForPages",
     kThreePages,
     {{0, 100, 2}, {0, 10, 100}, {0, 10, 1}},
     {"1:[0,100)!", "1:d100", "2:[0,10)! 3:[0,10)!", "2:d10"}},
    {"OneTokenPrompt", kRoomy, {{0, 1, 2}}, {"1:[0,1)!", "1:d1", ""}},
    {"WholeContext", kThreePages, {{0, 190, 2}}, {"1:[0,190)!", "1:d190", ""}},
    {"EndOfContextEndsTheOutput",
     kThreePages,
     {{0, 190, 9}},
     {"1:[0,190)!", "1:d190", ""}},
};

INSTANTIATE_TEST_SUITE_P(Table, SchedulerPlanTest,
                         ::testing::ValuesIn(kPlanRows),
                         [](const auto& info) { return info.param.name; });

std::unique_ptr<Request> WithBorder(int border, int prompt_tokens,
                                    int max_output) {
  std::unique_ptr<Request> request = MakeRequest(prompt_tokens, max_output);
  request->attention.traits.chunk_border_tokens = border;
  return request;
}

TEST(SchedulerTest, ChunksEndOnThePatternsBorders) {
  // A prompt is sure of 249 rows.
  Turns turns(kRoomy);
  turns.Add(MakeRequest(5, 9));
  turns.Turn();
  turns.Add(WithBorder(128, 500, 1));
  EXPECT_EQ(turns.Turn(), "1:d5 2:[0,128)");
  EXPECT_EQ(turns.Turn(), "1:d6 2:[128,256)");
}

TEST(SchedulerTest, APromptWaitsForRowsUpToItsFirstBorder) {
  Turns turns(kRoomy);
  turns.Add(MakeRequest(150, 1));
  turns.Add(WithBorder(128, 500, 1));
  EXPECT_EQ(turns.Turn(), "1:[0,150)!");
  EXPECT_EQ(turns.Turn(), "2:[0,256)");
}

TEST(SchedulerTest, BordersBeyondTheBudgetStarveNobody) {
  Turns turns(kNarrow);
  turns.Add(MakeRequest(5, 99));
  turns.Turn();
  turns.Add(WithBorder(128, 200, 1));  // 121 rows are sure
  EXPECT_EQ(turns.Turn(), "1:d5 2:[0,64)");
  EXPECT_EQ(turns.Turn(), "1:d6 2:[64,128)");
  EXPECT_EQ(turns.Turn(), "1:d7 2:[128,200)!");
}

TEST(SchedulerTest, ShortPromptsRunBesideALongOne) {
  Turns turns(kRoomy);
  turns.Add(MakeRequest(5, 9));
  turns.Turn();
  turns.Add(WithBorder(128, 500, 1));
  turns.Add(MakeRequest(200, 1));
  EXPECT_EQ(turns.Turn(), "1:d5 2:[0,128) 3:[0,64)");
  EXPECT_EQ(turns.Turn(), "1:d6 2:[128,256) 3:[64,128)");
  EXPECT_EQ(turns.Turn(), "1:d7 2:[256,384) 3:[128,200)!");
  EXPECT_EQ(turns.Turn(), "1:d8 2:[384,500)!");
}

TEST(SchedulerTest, ALongPromptHasAllRowsThatNobodyElseWants) {
  Turns turns(kNarrow);
  turns.Add(MakeRequest(500, 1));
  EXPECT_EQ(turns.Turn(), "1:[0,128)");
  turns.Add(MakeRequest(10, 1));
  EXPECT_EQ(turns.Turn(), "1:[128,192) 2:[0,10)!");
  EXPECT_EQ(turns.Turn(), "1:[192,320)");
}

TEST(SchedulerTest, WhereOnlyOneChunkFitsLongAndShortPromptsTakeTurns) {
  // 7 of 70 rows decode: one page is left.
  Turns turns({.max_step_tokens = 72,
               .max_running_sequences = 9,
               .context_tokens = 1024,
               .kv_pages = 64});
  for (int i = 0; i < 7; ++i) turns.Add(MakeRequest(1, 99));
  turns.Turn();
  turns.Add(MakeRequest(300, 1));
  const auto prompts = [&turns] {
    std::string all = turns.Turn();
    return all.substr(all.rfind(":d") + 4);
  };
  EXPECT_EQ(prompts(), "8:[0,64)");
  turns.Add(MakeRequest(64, 1));
  EXPECT_EQ(prompts(), "8:[64,128)");
  EXPECT_EQ(prompts(), "9:[0,64)!");
  EXPECT_EQ(prompts(), "8:[128,192)");
}

TEST(SchedulerTest, TwoLongPromptsAreHalfWayAtMost) {
  Turns turns({.max_step_tokens = 256,
               .max_running_sequences = 8,
               .context_tokens = 1024,
               .kv_pages = 64});
  for (int i = 0; i < 3; ++i) turns.Add(MakeRequest(600, 1));
  turns.Add(MakeRequest(30, 1));
  EXPECT_EQ(turns.Turn(), "1:[0,128) 2:[0,64) 4:[0,30)!");
}

std::unique_ptr<Request> WithPriority(int priority, int prompt_tokens) {
  std::unique_ptr<Request> request = MakeRequest(prompt_tokens, 1);
  request->priority = priority;
  return request;
}

TEST(SchedulerTest, HigherPriorityGoesFirst) {
  Turns turns(kNarrow);
  turns.Add(WithPriority(0, 100));
  turns.Add(WithPriority(-1, 101));
  turns.Add(WithPriority(3, 102));
  EXPECT_EQ(turns.Turn(), "3:[0,102)!");
  EXPECT_EQ(turns.Turn(), "1:[0,100)!");
  EXPECT_EQ(turns.Turn(), "2:[0,101)!");
}

TEST(SchedulerTest, SoonerDeadlineGoesFirstWithinAClass) {
  Turns turns(kNarrow);
  turns.Add(MakeRequest(100, 1));
  std::unique_ptr<Request> by_target = MakeRequest(101, 1);
  by_target->target.time_to_first_token = absl::Seconds(60);
  turns.Add(std::move(by_target));
  std::unique_ptr<Request> by_deadline = MakeRequest(102, 1);
  by_deadline->deadline = At(30);
  turns.Add(std::move(by_deadline));
  EXPECT_EQ(turns.Turn(), "3:[0,102)!");
  EXPECT_EQ(turns.Turn(), "2:[0,101)!");
  EXPECT_EQ(turns.Turn(), "1:[0,100)!");
}

TEST(SchedulerTest, WaitingMakesMoreImportant) {
  Turns turns(kNarrow);
  turns.Add(WithPriority(0, 100));
  turns.Add(WithPriority(2, 128));
  EXPECT_EQ(turns.Turn(At(1)), "2:[0,128)!");
  // Three periods, and one that has just come.
  turns.AddAt(WithPriority(2, 128), At(91));
  EXPECT_EQ(turns.Turn(At(91)), "1:[0,100)!");
}

TEST(SchedulerTest, AMissedTargetStandsBehindThoseThatCanBeMet) {
  Turns turns(kNarrow);
  std::unique_ptr<Request> missed = WithPriority(9, 128);
  missed->target.time_to_first_token = absl::Seconds(5);
  turns.Add(std::move(missed));
  turns.Add(MakeRequest(128, 1));
  EXPECT_EQ(turns.Turn(At(6)), "2:[0,128)!");
  EXPECT_EQ(turns.Turn(At(6)), "1:[0,128)!");
}

TEST(SchedulerTest, WhatIsToBeRefusedIsNotRunLate) {
  Turns turns(kNarrow);
  std::unique_ptr<Request> missed = MakeRequest(128, 1);
  missed->target = {.time_to_first_token = absl::Seconds(5),
                    .on_miss = OnMiss::kReject};
  turns.Add(std::move(missed));
  EXPECT_EQ(turns.Turn(At(6)), "");
  turns.Turn(At(6));
  EXPECT_THAT(turns.ended(), ElementsAre(Ended(1, Ending::kUnmeetable)));
}

TEST(SchedulerTest, LateWorkHasItsShareWhileThereIsOther) {
  Turns turns(kRoomy);
  std::unique_ptr<Request> missed = MakeRequest(640, 1);
  missed->target.time_to_first_token = absl::Seconds(5);
  turns.Add(std::move(missed));
  // Somebody who can be met is always there, and leaves most rows free.
  constexpr int kTurns = 10;
  int late_tokens = 0;
  for (int turn = 0; turn < kTurns; ++turn) {
    turns.Add(MakeRequest(64, 1));
    const StepPlan plan = turns.PlanAndRun(At(10));
    for (const StepSlice& slice : plan.slices) {
      if (slice.sequence == 1) {
        late_tokens += static_cast<int>(slice.tokens.size());
      }
    }
  }
  EXPECT_GT(late_tokens, 0.1 * kTurns * kRoomy.max_step_tokens);
  EXPECT_LE(late_tokens, 0.2 * kTurns * kRoomy.max_step_tokens);
  // Alone it has all.
  EXPECT_EQ(turns.Turn(At(10)).substr(0, 2), "1:");
}

std::unique_ptr<Request> NotCausal(int prompt_tokens) {
  std::unique_ptr<Request> request = MakeRequest(prompt_tokens, 1);
  request->attention.traits.is_selection_causal = false;
  return request;
}

TEST(SchedulerTest, WhatIsNotSelectionCausalWaitsAsideForAStepThatHoldsIt) {
  Turns turns(kRoomy);
  turns.Add(MakeRequest(5, 3));
  turns.Turn();
  turns.Add(NotCausal(256));
  turns.Add(MakeRequest(7, 1));
  EXPECT_EQ(turns.Turn(), "1:d5 3:[0,7)!");
  EXPECT_EQ(turns.Turn(), "1:d6");
  EXPECT_EQ(turns.Turn(), "2:[0,256)!");
}

TEST(SchedulerTest, HavingWaitedLongAWholePromptGoesBeforeOutput) {
  Turns turns(kRoomy);
  turns.Add(MakeRequest(5, 99));
  turns.Turn();
  turns.Add(NotCausal(256));
  EXPECT_EQ(turns.Turn(At(4)), "1:d5");
  EXPECT_EQ(turns.Turn(At(5)), "2:[0,256)!");
  EXPECT_EQ(turns.Turn(At(5)), "1:d6");
}

TEST(SchedulerTest, NoStreamsStartWhileAWholePromptHasWaitedLong) {
  Turns turns(kRoomy);
  const auto stream = [](int output) {
    std::unique_ptr<Request> request = MakeRequest(5, output);
    request->target.time_per_output_token = absl::Seconds(1);
    return request;
  };
  turns.Add(stream(4));
  turns.Turn();
  turns.Add(NotCausal(9));
  turns.Add(stream(9));
  EXPECT_EQ(turns.Turn(At(6)), "1:d5");
  turns.Add(MakeRequest(3, 1));
  EXPECT_EQ(turns.Turn(At(6)), "1:d6");
  EXPECT_EQ(turns.Turn(At(6)), "1:d7");
  EXPECT_EQ(turns.Turn(At(6)), "2:[0,9)! 3:[0,5)! 4:[0,3)!");
}

TEST(SchedulerTest, WhatIsNotSelectionCausalWaitsForStreamsThatCountOnTokens) {
  Turns turns(kRoomy);
  std::unique_ptr<Request> stream = MakeRequest(5, 3);
  stream->target.time_per_output_token = absl::Seconds(1);
  turns.Add(std::move(stream));
  turns.Turn();
  turns.Add(NotCausal(9));
  EXPECT_EQ(turns.Turn(), "1:d5");
  EXPECT_EQ(turns.Turn(), "1:d6");
  EXPECT_EQ(turns.Turn(), "2:[0,9)!");
}

TEST(SchedulerTest, OtherTargetsDoNotHoldUpWhatIsNotSelectionCausal) {
  Turns turns(kRoomy);
  std::unique_ptr<Request> stream = MakeRequest(5, 3);
  stream->target.time_to_first_token = absl::Seconds(1);
  stream->target.total = absl::Seconds(9);
  turns.Add(std::move(stream));
  turns.Turn();
  turns.Add(NotCausal(9));
  EXPECT_EQ(turns.Turn(), "1:d5 2:[0,9)!");
}

TEST(SchedulerTest, CreateNamesTheOptionItsValueAndItsRange) {
  const FakeTokenizer tokenizer;
  struct Row {
    Scheduler::Options options;
    std::vector<std::string> parts;
  };
  Scheduler::Options good = kRoomy;
  std::vector<Row> rows;
  rows.push_back({good, {"max_running_sequences", " 0,", "from 1 to 1024"}});
  rows.back().options.max_running_sequences = 0;
  rows.push_back({good, {"max_running_sequences", " 1025,", "1 to 1024"}});
  rows.back().options.max_running_sequences = 1025;
  rows.push_back({good, {"max_step_tokens", " 70,", "from 71 to 8192"}});
  rows.back().options.max_step_tokens = 70;
  rows.push_back({good, {"max_step_tokens", " 8193,", "from 71 to 8192"}});
  rows.back().options.max_step_tokens = 8193;
  rows.push_back({good, {"context_tokens", " 1,", "from 2"}});
  rows.back().options.context_tokens = 1;
  rows.push_back({good, {"kv_pages", " 0,", "from 1"}});
  rows.back().options.kv_pages = 0;
  for (const Row& row : rows) {
    const absl::Status status =
        Scheduler::Create(row.options, tokenizer).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    for (const std::string& part : row.parts) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  }
  good.max_step_tokens = 71;
  EXPECT_TRUE(Scheduler::Create(good, tokenizer).ok());
}

TEST(SchedulerTest, LongestRequestIsTheContextOrAllPages) {
  const FakeTokenizer tokenizer;
  Scheduler::Options options = kRoomy;
  options.kv_pages = 3;
  EXPECT_EQ((*Scheduler::Create(options, tokenizer))->max_request_tokens(),
            192);
  options.kv_pages = 100;
  EXPECT_EQ((*Scheduler::Create(options, tokenizer))->max_request_tokens(),
            1024);
}

TEST(SchedulerTest, NamesTheRequestsThatAPlanStarted) {
  Turns turns(kTwoAtOnce);
  const Request& first = turns.Add(MakeRequest(5, 1));
  const Request& second = turns.Add(MakeRequest(5, 2));
  turns.Add(MakeRequest(5, 2));
  turns.scheduler().PlanStep(At(1));
  EXPECT_THAT(turns.scheduler().started(), ElementsAre(&first, &second));
  EXPECT_EQ(turns.scheduler().waiting(), 1);
  EXPECT_EQ(turns.scheduler().running(), 2);
  turns.scheduler().PlanStep(At(1));
  EXPECT_THAT(turns.scheduler().started(), IsEmpty());
}

TEST(SchedulerTest, CancelledRequestsGiveTheirPagesBackInTheNextTurn) {
  // Decoding, half-way through its prompt, and waiting for a place.
  Scheduler::Options options = kNarrow;
  options.max_running_sequences = 2;
  Turns turns(options);
  const Request& decoding = turns.Add(MakeRequest(5, 9));
  EXPECT_EQ(turns.Turn(), "1:[0,5)!");
  const Request& prefilling = turns.Add(MakeRequest(500, 9));
  const Request& waiting = turns.Add(MakeRequest(5, 9));
  EXPECT_EQ(turns.Turn(), "1:d5 2:[0,64)");

  waiting.cancelled->store(true);
  EXPECT_EQ(turns.Turn(), "1:d6 2:[64,128)");
  prefilling.cancelled->store(true);
  EXPECT_EQ(turns.Turn(), "1:d7");
  EXPECT_EQ(turns.scheduler().pages().leased(), 1);
  decoding.cancelled->store(true);
  EXPECT_EQ(turns.Turn(), "");
  EXPECT_EQ(turns.scheduler().pages().leased(), 0);
  EXPECT_TRUE(turns.scheduler().idle());
  EXPECT_THAT(turns.ended(), ElementsAre(Ended(3, Ending::kCancelled),
                                         Ended(2, Ending::kCancelled),
                                         Ended(1, Ending::kCancelled)));
}

TEST(SchedulerTest, DeadlineEndsARequestWhereverItIs) {
  Turns turns(kTwoAtOnce);
  for (int i = 0; i < 3; ++i) {
    std::unique_ptr<Request> request = MakeRequest(5, 9);
    request->deadline = At(10 + i);
    turns.Add(std::move(request));
  }
  EXPECT_EQ(turns.Turn(At(9)), "1:[0,5)! 2:[0,5)!");
  EXPECT_EQ(turns.Turn(At(10)), "2:d5 3:[0,5)!");
  EXPECT_EQ(turns.Turn(At(12)), "");
  EXPECT_THAT(turns.ended(), ElementsAre(Ended(1, Ending::kDeadline),
                                         Ended(2, Ending::kDeadline),
                                         Ended(3, Ending::kDeadline)));
}

TEST(SchedulerTest, NothingRunsForARequestThatIsLateOrCancelledOnArrival) {
  Turns turns(kRoomy);
  std::unique_ptr<Request> late = MakeRequest(5, 9);
  late->deadline = At(1);
  turns.Add(std::move(late));
  std::unique_ptr<Request> cancelled = MakeRequest(5, 9);
  cancelled->cancelled->store(true);
  turns.Add(std::move(cancelled));
  EXPECT_EQ(turns.Turn(At(1)), "");
  EXPECT_EQ(turns.executor().steps(), 0);
}

TEST(SchedulerTest, DeadlineIsTheCauseWhereTheCallCancelledBecauseOfIt) {
  Turns turns(kRoomy);
  std::unique_ptr<Request> request = MakeRequest(5, 9);
  request->deadline = At(1);
  request->cancelled->store(true);
  turns.Add(std::move(request));
  turns.Turn(At(1));
  EXPECT_THAT(turns.ended(), ElementsAre(Ended(1, Ending::kDeadline)));
}

TEST(SchedulerTest, FailedSliceFailsAlone) {
  Turns turns(kRoomy);
  turns.executor().slice_status = [](const StepSlice& slice) {
    return slice.sequence == 2 && slice.phase == Phase::kDecode
               ? absl::InternalError("NaN")
               : absl::OkStatus();
  };
  turns.Add(MakeRequest(5, 3));
  turns.Add(MakeRequest(5, 3));
  turns.Turn();
  EXPECT_EQ(turns.Turn(), "1:d5 2:d5");
  EXPECT_EQ(turns.Turn(), "1:d6");
  EXPECT_THAT(turns.ended(), ElementsAre(Ended(2, Ending::kNumericFault),
                                         Ended(1, Ending::kFinished)));
}

TEST(SchedulerTest, CommitGivesEachSequencesOutput) {
  Turns turns(kNarrow);
  turns.Add(MakeRequest(5, 2));
  turns.Add(MakeRequest(200, 2));
  Scheduler& scheduler = turns.scheduler();
  const StepPlan plan = scheduler.PlanStep(At(1));
  const std::vector<Scheduler::Output> outputs =
      scheduler.Commit(*turns.executor().Step(plan), At(2));
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[0].sequence->id(), 1);
  EXPECT_EQ(outputs[0].piece.token_ids.size(), 1u);
  EXPECT_EQ(outputs[1].sequence->id(), 2);
  EXPECT_THAT(outputs[1].piece.token_ids, IsEmpty());
}

TEST(SchedulerTest, EndAllEndsWhatWaitsAndWhatRuns) {
  Turns turns(kTwoAtOnce);
  for (int i = 0; i < 3; ++i) turns.Add(MakeRequest(5, 9));
  turns.Turn();
  turns.scheduler().EndAll(Ending::kDraining, At(2));
  EXPECT_TRUE(turns.scheduler().idle());
  EXPECT_EQ(turns.scheduler().pages().leased(), 0);
  turns.Turn();
  EXPECT_EQ(turns.ended().size(), 3u);
}

// Steps of a machine that takes 1 ms, and 1 ms for a row.
double Seconds(const StepPlan& plan) {
  double seconds = 1e-3;
  for (const StepSlice& slice : plan.slices) {
    seconds += 1e-3 * static_cast<double>(slice.tokens.size());
  }
  return seconds;
}

// Has the scheduler learn what such steps cost.
absl::Time Learn(Scheduler& scheduler, FakeExecutor& executor) {
  absl::Time now = At(0);
  for (int i = 0; i < 40; ++i) {
    std::unique_ptr<Request> request = MakeRequest(10 + 12 * (i % 20), 4);
    request->arrival = now;
    std::vector<std::unique_ptr<Request>> requests;
    requests.push_back(std::move(request));
    scheduler.Admit(std::move(requests), now);
    const StepPlan plan = scheduler.PlanStep(now);
    const double seconds = Seconds(plan);
    now += absl::Seconds(seconds);
    scheduler.Commit(*executor.Step(plan), now);
    scheduler.TakeEnded();
  }
  while (!scheduler.idle()) {
    const StepPlan plan = scheduler.PlanStep(now);
    now += absl::Seconds(Seconds(plan));
    scheduler.Commit(*executor.Step(plan), now);
    scheduler.TakeEnded();
  }
  return now;
}

TEST(SchedulerTest, ChunksKeepToTheTimeThatStreamsMayTake) {
  Scheduler::Options options = kRoomy;
  options.step_time_target = absl::Milliseconds(170);
  Turns turns(options);
  const absl::Time now = Learn(turns.scheduler(), turns.executor());
  const auto rows = [&](const StepPlan& plan) {
    return plan.slices.back().tokens.size();
  };
  // Nobody minds.
  turns.AddAt(MakeRequest(900, 99), now);
  EXPECT_EQ(rows(turns.PlanAndRun(now)), 256u);
  while (turns.Turn(now).find(":d") == std::string::npos) {
  }
  // 128 rows and one more take 130 ms, 192 would take 194.
  turns.AddAt(MakeRequest(900, 1), now);
  EXPECT_EQ(rows(turns.PlanAndRun(now)), 128u);
  // Of a stream that counts on 100 ms.
  std::unique_ptr<Request> stream = MakeRequest(3, 99);
  stream->target.time_per_output_token = absl::Milliseconds(100);
  turns.AddAt(std::move(stream), now);
  turns.PlanAndRun(now);
  EXPECT_EQ(rows(turns.PlanAndRun(now)), 64u);
}

TEST(SchedulerTest, ATargetThatOutputAloneMissesSlowsNoPrompts) {
  Scheduler::Options options = kRoomy;
  options.step_time_target = absl::Milliseconds(170);
  Turns turns(options);
  const absl::Time now = Learn(turns.scheduler(), turns.executor());
  std::unique_ptr<Request> stream = MakeRequest(3, 99);
  stream->target.time_per_output_token = absl::Microseconds(1);
  turns.AddAt(std::move(stream), now);
  turns.Turn(now);
  turns.AddAt(MakeRequest(900, 1), now);
  EXPECT_EQ(turns.Turn(now).substr(3), "d3 42:[0,128)");
}

TEST(SchedulerTest, RefusesOnArrivalWhatTheQueueMakesMissItsTarget) {
  Turns turns(kRoomy);
  const absl::Time now = Learn(turns.scheduler(), turns.executor());
  const auto asks = [](absl::Duration first_token) {
    std::unique_ptr<Request> request = MakeRequest(200, 1);
    request->target = {.time_to_first_token = first_token,
                       .on_miss = OnMiss::kReject};
    return request;
  };
  // 201 ms alone.
  turns.AddAt(asks(absl::Milliseconds(300)), now);
  turns.AddAt(asks(absl::Milliseconds(300)), now);
  turns.AddAt(asks(absl::Milliseconds(100)), now);
  turns.Turn(now);
  EXPECT_THAT(turns.ended(),
              ::testing::UnorderedElementsAre(Ended(42, Ending::kUnmeetable),
                                              Ended(43, Ending::kTooShort),
                                              Ended(41, Ending::kFinished)));
}

TEST(SchedulerTest, NothingRunsForACallerWhoWillBeGone) {
  Turns turns(kRoomy);
  const absl::Time now = Learn(turns.scheduler(), turns.executor());
  std::unique_ptr<Request> request = MakeRequest(200, 1);
  request->deadline = now + absl::Milliseconds(50);
  turns.AddAt(std::move(request), now);
  EXPECT_EQ(turns.Turn(now), "");
  EXPECT_THAT(turns.ended(), ElementsAre(Ended(41, Ending::kTooShort)));
}

const Scheduler::Options kFewPages = {.max_step_tokens = 256,
                                      .max_running_sequences = 4,
                                      .context_tokens = 512,
                                      .kv_pages = 4};

TEST(SchedulerTest, StopsTheYoungestOfTheLowestClassWhenPagesRunOut) {
  Turns turns(kFewPages);
  std::unique_ptr<Request> first = WithPriority(0, 63);
  first->max_output_tokens = 120;
  turns.Add(std::move(first));
  std::unique_ptr<Request> second = WithPriority(1, 62);
  second->max_output_tokens = 120;
  turns.Add(std::move(second));
  EXPECT_EQ(turns.Turn(), "2:[0,62)! 1:[0,63)!");
  // Each grows to two pages, and would to three.
  for (int i = 0; i < 64; ++i) turns.Turn();
  EXPECT_EQ(turns.Turn(), "2:d126 1:d127");
  EXPECT_EQ(turns.scheduler().preempted(), 0);
  EXPECT_EQ(turns.Turn(), "2:d127");
  EXPECT_EQ(turns.scheduler().preempted(), 1);
  EXPECT_THAT(turns.scheduler().preempted_tokens(), ElementsAre(128));
  while (turns.ended().empty()) turns.Turn();
  // It goes on where it was, from a prompt and output that run anew.
  EXPECT_EQ(turns.Turn(), "1:[0,63)");
  EXPECT_EQ(turns.Turn(), "1:d63");
  while (turns.ended().size() < 2) turns.Turn();
  EXPECT_THAT(turns.ended(), ElementsAre(Ended(2, Ending::kFinished),
                                         Ended(1, Ending::kFinished)));
}

TEST(SchedulerTest, WhatCanBeMetTakesThePlaceOfWhatCannot) {
  Scheduler::Options options = kRoomy;
  options.max_running_sequences = 1;
  Turns turns(options);
  std::unique_ptr<Request> missed = MakeRequest(10, 50);
  missed->target.time_to_first_token = absl::Seconds(5);
  turns.Add(std::move(missed));
  EXPECT_EQ(turns.Turn(At(6)), "1:[0,10)!");
  EXPECT_EQ(turns.Turn(At(6)), "1:d10");
  turns.Add(MakeRequest(7, 1));
  EXPECT_EQ(turns.Turn(At(6)), "2:[0,7)!");
  EXPECT_EQ(turns.Turn(At(6)), "1:[0,10)");
}

TEST(SchedulerTest, AMeasuredPromptLeavesRoomForOthers) {
  Turns turns(kRoomy);
  turns.Add(MakeRequest(10, 100));
  EXPECT_EQ(turns.Turn(), "1:[0,10)!");
  std::unique_ptr<Request> measured = MakeRequest(300, 1);
  measured->profile = std::make_shared<AttentionProfile>(
      AttentionProfile::Shape{1, 1, 1, 300}, AttentionProfile::Options());
  turns.Add(std::move(measured));
  EXPECT_EQ(turns.Turn(), "1:d10 2:[0,128)");
  turns.Add(MakeRequest(60, 1));
  EXPECT_EQ(turns.Turn(), "1:d11 2:[128,256) 3:[0,60)!");
  EXPECT_EQ(turns.Turn(), "1:d12 2:[256,300)!");
}

}  // namespace
}  // namespace sparseserve
