#include "server/scheduling/step_budget.h"

#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace sparseserve {
namespace {

// A step takes 10 ms, and 1 ms for a row.
StepCostModel Learned() {
  StepCostModel cost;
  for (int i = 0; i < 300; ++i) {
    const StepWork work = {.decode_rows = static_cast<double>(i % 5),
                           .prompt_rows = static_cast<double>(i * 7 % 90)};
    cost.Observe(work,
                 absl::Milliseconds(10 + work.decode_rows + work.prompt_rows));
  }
  return cost;
}

std::unique_ptr<Sequence> MakeSequence(int prompt_tokens, int border = 1) {
  static const testing::FakeTokenizer tokenizer;
  auto request = std::make_unique<Request>();
  request->prompt.assign(prompt_tokens, 'p');
  request->max_output_tokens = 1;
  request->attention.traits.chunk_border_tokens = border;
  request->sink = std::make_shared<testing::RecordingSink>();
  return std::make_unique<Sequence>(
      1, std::move(request),
      Sequence::Limits{.max_tokens = 9000, .least_budget = 512}, tokenizer);
}

TEST(StepBudgetTest, WithoutALimitOfTimeRowsDecide) {
  const StepCostModel cost = Learned();
  StepBudget budget(cost, 300);
  EXPECT_EQ(budget.Fit(*MakeSequence(1000), 1000), 256);
  EXPECT_EQ(budget.Fit(*MakeSequence(270), 1000), 270);
  EXPECT_EQ(budget.Fit(*MakeSequence(1000), 140), 128);
  EXPECT_EQ(budget.Fit(*MakeSequence(1000), 63), 0);
}

TEST(StepBudgetTest, ChunksAreTheLongestThatTheTimeAllows) {
  const StepCostModel cost = Learned();
  StepBudget budget(cost, 8192);
  const auto sequence = MakeSequence(5000);
  for (const int pages : {1, 2, 3, 17, 60}) {
    budget.LimitTime(absl::Milliseconds(10 + 64 * pages + 20));
    EXPECT_EQ(budget.Fit(*sequence, 8192), 64 * pages);
  }
  budget.LimitTime(absl::Milliseconds(50));
  EXPECT_EQ(budget.Fit(*sequence, 8192), 0);
  // Shorter than a page, and the whole prompt.
  EXPECT_EQ(budget.Fit(*MakeSequence(30), 8192), 30);
}

TEST(StepBudgetTest, ChunksEndOnThePatternsBordersWithinTheTime) {
  const StepCostModel cost = Learned();
  StepBudget budget(cost, 8192);
  budget.LimitTime(absl::Milliseconds(10 + 600));
  EXPECT_EQ(budget.Fit(*MakeSequence(5000, 256), 8192), 512);
}

TEST(StepBudgetTest, WhatWasTakenIsGone) {
  const StepCostModel cost = Learned();
  StepBudget budget(cost, 300);
  budget.LimitTime(absl::Milliseconds(10 + 240));
  const auto first = MakeSequence(100);
  budget.Take(*first, 100);
  EXPECT_EQ(budget.rows_left(), 200);
  EXPECT_EQ(budget.work().prompt_rows, 100);
  EXPECT_EQ(budget.Fit(*MakeSequence(1000), 1000), 128);
  budget.GiveBack(*first, 100);
  EXPECT_EQ(budget.rows_left(), 300);
  EXPECT_EQ(budget.Fit(*MakeSequence(1000), 1000), 192);
}

TEST(StepBudgetTest, TimeIsNoLimitWhileNothingIsKnown) {
  const StepCostModel unknown;
  StepBudget budget(unknown, 300);
  budget.LimitTime(absl::Nanoseconds(1));
  EXPECT_EQ(budget.Fit(*MakeSequence(1000), 1000), 256);
}

}  // namespace
}  // namespace sparseserve
