#include "server/scheduling/preemption.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/profile/attention_profile.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduling/page_account.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

class PreemptionTest : public ::testing::Test {
 protected:
  struct Given {
    int priority = 0;
    bool is_late = false;
    int prompt_tokens = 10;
    int max_output = 500;
    bool is_measured = false;
    bool was_stopped = false;
  };
  void Run(const Given& given) {
    auto request = std::make_unique<Request>();
    request->prompt.assign(given.prompt_tokens, 'p');
    request->max_output_tokens = given.max_output;
    request->priority = given.priority;
    request->sink = std::make_shared<testing::RecordingSink>();
    if (given.is_measured) {
      request->profile = std::make_shared<AttentionProfile>(
          AttentionProfile::Shape{1, 1, 1, given.prompt_tokens},
          AttentionProfile::Options());
    }
    auto runner = std::make_unique<Runner>();
    runner->rank = {.is_late = given.is_late, .id = next_id_};
    runner->sequence = std::make_unique<Sequence>(
        next_id_++, std::move(request), Sequence::Limits{.max_tokens = 1000},
        tokenizer_);
    Start(*runner->sequence);
    if (given.was_stopped) {
      runner->sequence->Preempt();
      Start(*runner->sequence);
    }
    running_.push_back(std::move(runner));
  }
  void Start(Sequence& sequence) {
    std::optional<PageClaim> claim = Claim(sequence, 0);
    ASSERT_TRUE(claim.has_value());
    sequence.Start(*std::move(claim), absl::UnixEpoch());
  }
  std::optional<PageClaim> Claim(const Sequence& sequence, int spare) {
    return pages_.Start({.request = sequence.request(),
                         .tokens = sequence.tokens(),
                         .pages = sequence.pages_for(sequence.tokens_to_run()),
                         .spare = spare});
  }
  SequenceId Victim() const { return ChooseVictim(running_)->sequence->id(); }
  bool Allows(int prompt_tokens, int max_output = 500) {
    auto request = std::make_unique<Request>();
    request->prompt.assign(prompt_tokens, 'p');
    request->max_output_tokens = max_output;
    request->sink = std::make_shared<testing::RecordingSink>();
    const Sequence next(99, std::move(request), {.max_tokens = 1000},
                        tokenizer_);
    return Claim(next, reserve_.Spare(running_, next)).has_value();
  }

  testing::FakeTokenizer tokenizer_;
  PageAccount pages_{{.pages = 10}};
  std::vector<std::unique_ptr<Runner>> running_;
  PageReserve reserve_;
  SequenceId next_id_ = 1;
};

TEST_F(PreemptionTest, TheYoungestOfTheLowestClassIsStopped) {
  Run({.priority = 1});
  Run({.priority = 0});
  Run({.priority = 0});
  Run({.priority = 2});
  EXPECT_EQ(Victim(), 3);
}

TEST_F(PreemptionTest, WhatCannotBeMetIsStoppedFirst) {
  Run({.priority = 5, .is_late = true});
  Run({.priority = -5});
  EXPECT_EQ(Victim(), 1);
  EXPECT_EQ(ChooseLateVictim(running_)->sequence->id(), 1);
}

TEST_F(PreemptionTest, WhatWasStoppedMakesProgressFirst) {
  Run({});
  Run({});
  Run({.was_stopped = true});
  EXPECT_EQ(Victim(), 2);
}

TEST_F(PreemptionTest, WithoutProgressItStillStandsBelowHigherClasses) {
  Run({.priority = 1});
  Run({.priority = 1});
  Run({.priority = 0, .was_stopped = true});
  EXPECT_EQ(Victim(), 3);
  Run({.priority = 9, .is_late = true, .was_stopped = true});
  EXPECT_EQ(Victim(), 4);
  EXPECT_EQ(ChooseLateVictim(running_), nullptr);
}

TEST_F(PreemptionTest, TheOldestOfTheHighestClassIsNeverStopped) {
  Run({.priority = 1});
  Run({.priority = 1, .was_stopped = true});
  EXPECT_EQ(Victim(), 2);
}

TEST_F(PreemptionTest, ItIsStoppedAgainWhereThereIsNobodyElse) {
  Run({.was_stopped = true});
  Run({.was_stopped = true});
  EXPECT_EQ(Victim(), 2);
}

TEST_F(PreemptionTest, AMeasuredPromptIsNotStopped) {
  Run({});
  Run({.priority = -1, .max_output = 1, .is_measured = true});
  EXPECT_EQ(Victim(), 1);
}

TEST_F(PreemptionTest, NobodyIsStoppedWhereNobodyRuns) {
  EXPECT_EQ(ChooseVictim(running_), nullptr);
}

TEST_F(PreemptionTest, KeepsAPageForEachThatCanGrow) {
  Run({.prompt_tokens = 64});                   // holds 1
  Run({.prompt_tokens = 128});                  // 2
  Run({.prompt_tokens = 64, .max_output = 1});  // 1, and never more
  // 6 are free, 3 of them for growth.
  EXPECT_TRUE(Allows(192));
  EXPECT_FALSE(Allows(193));
  EXPECT_TRUE(Allows(256, 1));
  EXPECT_FALSE(Allows(257, 1));
}

TEST_F(PreemptionTest, KeepsTwiceAsManyAfterAStop) {
  Run({.prompt_tokens = 64});
  Run({.prompt_tokens = 128});
  reserve_.Preempted();
  // 7 are free.
  EXPECT_TRUE(Allows(64));
  EXPECT_FALSE(Allows(65));
  reserve_.Started();
  EXPECT_TRUE(Allows(256));
}

TEST_F(PreemptionTest, WhatIsToBeStoppedNeedsNoMore) {
  Run({.prompt_tokens = 64});
  Run({.is_late = true, .prompt_tokens = 64});
  Run({.is_late = true, .prompt_tokens = 64, .was_stopped = true});
  auto request = std::make_unique<Request>();
  request->prompt.assign(10, 'p');
  request->max_output_tokens = 500;
  request->sink = std::make_shared<testing::RecordingSink>();
  const Sequence next(99, std::move(request), {.max_tokens = 1000}, tokenizer_);
  EXPECT_EQ(reserve_.Spare(running_, next), 4);
  EXPECT_EQ(reserve_.SpareWithoutLate(running_, next), 3);
}

TEST_F(PreemptionTest, AloneOneMayTakeAll) {
  reserve_.Preempted();
  EXPECT_TRUE(Allows(640));
  EXPECT_FALSE(Allows(641));
}

}  // namespace
}  // namespace sparseserve
