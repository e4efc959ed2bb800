#include "server/scheduling/waiting_line.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

absl::Time At(int seconds) { return absl::FromUnixSeconds(1000 + seconds); }

class WaitingLineTest : public ::testing::Test {
 protected:
  struct Given {
    int level = 0;
    int deadline = 100;
    bool is_late = false;
    PromptKind kind = PromptKind::kShort;
    int prompt_tokens = 10;
    int caller_deadline = 1000;
    int target = 0;  // none
  };
  SequenceId Add(const Given& given, int now = 0) {
    auto request = std::make_unique<Request>();
    request->prompt.assign(given.prompt_tokens, 'p');
    request->max_output_tokens = 1;
    request->arrival = At(0);
    request->deadline = At(given.caller_deadline);
    if (given.target > 0) {
      request->target.time_to_first_token = absl::Seconds(given.target);
    }
    request->sink = std::make_shared<testing::RecordingSink>();
    cancelled_.push_back(request->cancelled);
    const SequenceId id = next_id_++;
    auto sequence = std::make_unique<Sequence>(
        id, std::move(request), Sequence::Limits{.max_tokens = 1000},
        tokenizer_);
    line_.Add(std::move(sequence),
              {given.is_late, given.level, At(given.deadline), id}, given.kind,
              At(now));
    return id;
  }
  std::vector<SequenceId> TakeShort() {
    std::vector<SequenceId> ids;
    while (Sequence* const first = line_.First(PromptKind::kShort)) {
      ids.push_back(first->id());
      line_.Take(*first);
    }
    return ids;
  }
  static std::vector<SequenceId> Ids(
      const std::vector<std::unique_ptr<Sequence>>& sequences) {
    std::vector<SequenceId> ids;
    for (const auto& sequence : sequences) ids.push_back(sequence->id());
    return ids;
  }

  testing::FakeTokenizer tokenizer_;
  WaitingLine line_{absl::Seconds(10)};
  SequenceId next_id_ = 1;
  // Of sequence i + 1.
  std::vector<std::shared_ptr<std::atomic<bool>>> cancelled_;
};

TEST_F(WaitingLineTest, MeetableThenLevelThenDeadlineThenArrival) {
  Add({.level = 9, .deadline = 1, .is_late = true});
  Add({.deadline = 50});
  Add({.deadline = 40});
  Add({.level = 1, .deadline = 60});
  Add({.deadline = 40});
  EXPECT_THAT(TakeShort(), ElementsAre(4, 3, 5, 2, 1));
  EXPECT_EQ(line_.size(), 0);
}

TEST_F(WaitingLineTest, KindsHaveLinesOfTheirOwn) {
  Add({.kind = PromptKind::kWhole});
  Add({.kind = PromptKind::kLong});
  Add({});
  EXPECT_EQ(line_.First(PromptKind::kWhole)->id(), 1);
  EXPECT_EQ(line_.First(PromptKind::kLong)->id(), 2);
  EXPECT_EQ(line_.First(PromptKind::kShort)->id(), 3);
}

TEST_F(WaitingLineTest, LevelsRiseWithEachPeriod) {
  Add({.level = 0});
  Add({.level = 2});
  line_.Age(At(9));
  EXPECT_EQ(line_.First(PromptKind::kShort)->id(), 2);
  line_.Age(At(10));  // both
  EXPECT_EQ(line_.RankOf(*line_.First(PromptKind::kShort)).level, 3);
  Add({.level = 2}, 10);
  Add({.level = 1}, 11);
  line_.Age(At(20));
  EXPECT_THAT(TakeShort(), ElementsAre(2, 3, 1, 4));
}

TEST_F(WaitingLineTest, ALevelForEachPeriodHoweverManyWait) {
  constexpr int kMany = 5 * WaitingLine::kPromotions;
  for (int i = 0; i < kMany; ++i) Add({});
  // A turn each three periods: each one is raised in every fifth.
  int64_t most = 0;
  for (int turn = 1; turn <= 50; ++turn) {
    line_.Age(At(30 * turn));
    most = line_.RankOf(*line_.First(PromptKind::kShort)).level;
    EXPECT_EQ(most, 3 * turn);
  }
  int64_t least = most;
  while (Sequence* const first = line_.First(PromptKind::kShort)) {
    least = std::min(least, line_.RankOf(*first).level);
    line_.Take(*first);
  }
  EXPECT_GE(least, most - 3 * 4);
}

TEST_F(WaitingLineTest, LeavesOutWhoseTargetPassed) {
  Add({.level = 3, .deadline = 10, .target = 10});
  Add({.level = 3, .deadline = 20, .target = 20});
  Add({.level = 1, .deadline = 10, .target = 10});
  Add({.deadline = 30, .target = 30});
  EXPECT_EQ(line_.FirstInTime(PromptKind::kShort, At(10))->id(), 1);
  EXPECT_EQ(line_.FirstInTime(PromptKind::kShort, At(11))->id(), 2);
  EXPECT_EQ(line_.FirstInTime(PromptKind::kShort, At(21))->id(), 4);
  EXPECT_EQ(line_.FirstInTime(PromptKind::kShort, At(31)), nullptr);
  EXPECT_EQ(line_.FirstMissed(At(10)), nullptr);
  for (int left = 3; Sequence* const missed = line_.FirstMissed(At(21));
       --left) {
    ASSERT_GT(left, 0);
    line_.SetLate(*missed, true);
  }
  EXPECT_EQ(line_.FirstLate(PromptKind::kShort)->id(), 1);
  EXPECT_EQ(line_.FirstInTime(PromptKind::kShort, At(31))->id(), 1);
}

TEST_F(WaitingLineTest, LateOnesWhoseTargetsHaveNotPassedTakeTurns) {
  Add({.target = 10});
  Add({.is_late = true, .target = 10});
  Add({.is_late = true, .target = 20});
  Add({.is_late = true});
  Add({.is_late = true, .target = 15});
  std::vector<SequenceId> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(line_.NextDoubtful(At(9))->id());
  EXPECT_THAT(ids, ElementsAre(2, 5, 3, 2));
  EXPECT_EQ(line_.NextDoubtful(At(16))->id(), 3);
  EXPECT_EQ(line_.NextDoubtful(At(21)), nullptr);
}

TEST_F(WaitingLineTest, LateOnesGoBehind) {
  Add({.level = 5});
  Add({});
  line_.SetLate(*line_.First(PromptKind::kShort), true);
  EXPECT_THAT(TakeShort(), ElementsAre(2, 1));
}

TEST_F(WaitingLineTest, CountsWhatIsAhead) {
  Add({.level = 1, .deadline = 500, .prompt_tokens = 7});
  Add({.deadline = 10, .prompt_tokens = 20});
  Add({.deadline = 90, .prompt_tokens = 300});
  Add({.deadline = 1, .is_late = true, .prompt_tokens = 400});
  const Backlog ahead = line_.Ahead({.deadline = At(50), .id = 9});
  EXPECT_EQ(ahead.requests, 2);
  EXPECT_EQ(ahead.work.prompt_rows, 27);
  TakeShort();
  EXPECT_EQ(line_.Ahead({.is_late = true, .deadline = At(50)}).requests, 0);
}

TEST_F(WaitingLineTest, GivesOutWhatIsPastItsDeadline) {
  Add({.caller_deadline = 30});
  Add({.caller_deadline = 10});
  Add({.caller_deadline = 31});
  EXPECT_THAT(line_.TakeExpired(At(9)), IsEmpty());
  EXPECT_THAT(Ids(line_.TakeExpired(At(30))), ElementsAre(2, 1));
  EXPECT_EQ(line_.size(), 1);
}

TEST_F(WaitingLineTest, FindsAllThatWereCancelledOfAFew) {
  for (int i = 0; i < 5; ++i) Add({});
  for (const int i : {0, 2, 4}) *cancelled_[i] = true;
  EXPECT_THAT(Ids(line_.TakeCancelled()),
              ::testing::UnorderedElementsAre(1, 3, 5));
  EXPECT_THAT(line_.TakeCancelled(), IsEmpty());
  EXPECT_THAT(TakeShort(), ElementsAre(2, 4));
}

TEST_F(WaitingLineTest, FindsAllThatWereCancelledOfManyInSomeTurns) {
  constexpr int kMany = 1000;
  for (int i = 0; i < kMany; ++i) Add({});
  for (int i = 0; i < kMany; i += 3) *cancelled_[i] = true;
  int found = 0;
  for (int turn = 0; turn < 3; ++turn) {
    const size_t taken = line_.TakeCancelled().size();
    EXPECT_LE(taken, WaitingLine::kPolled);
    found += static_cast<int>(taken);
  }
  EXPECT_EQ(found, 334);
  EXPECT_EQ(line_.size(), kMany - 334);
}

TEST_F(WaitingLineTest, GivesOutAllInOrderOfArrival) {
  Add({});
  Add({.level = 3, .kind = PromptKind::kLong});
  Add({.is_late = true, .kind = PromptKind::kWhole});
  EXPECT_THAT(Ids(line_.TakeAll()), ElementsAre(1, 2, 3));
  EXPECT_EQ(line_.size(), 0);
}

}  // namespace
}  // namespace sparseserve
