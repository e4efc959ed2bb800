#include "server/simulation/cost_model_executor.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr StepCosts kCosts = {.constant = 1,
                              .decode_row = 10,
                              .prompt_row = 0.5,
                              .decode_block = 100,
                              .prompt_block = 1000};

StepSlice Slice(Phase phase, int first, const std::vector<TokenId>& tokens,
                bool wants_token) {
  StepSlice slice;
  slice.phase = phase;
  slice.first_position = first;
  slice.tokens = tokens;
  slice.wants_token = wants_token;
  return slice;
}

TEST(CostModelExecutorTest, AddsUpRowsAndBlocks) {
  CostModelExecutor executor({.costs = kCosts, .vocab_size = 7});
  const std::vector<TokenId> one(1), many(64);
  StepPlan plan;
  plan.slices = {Slice(Phase::kDecode, 96, one, true),
                 Slice(Phase::kPrefill, 64, many, false)};
  const auto result = executor.Step(plan);
  ASSERT_TRUE(result.ok());
  ASSERT_EQ(result->slices.size(), 2);
  EXPECT_GE(result->slices[0].token, 0);
  EXPECT_LT(result->slices[0].token, 7);
  EXPECT_EQ(result->slices[1].token, -1);
  // The row at 96 sees (96 + 0.5) / 64 + 1 blocks; the 64 rows behind 64 see
  // (64 + 32) / 64 + 1 in the mean, once for all of them.
  const double seconds = 1 + 10 + 100 * (96.5 / 64 + 1) + 0.5 * 64 + 1000 * 2.5;
  EXPECT_NEAR(absl::ToDoubleSeconds(executor.duration()), seconds, 1e-6);
  EXPECT_EQ(executor.rows(), 65);
  EXPECT_EQ(executor.steps(), 1);
}

TEST(CostModelExecutorTest, OutputThatRunsAnewIsRowsOfAPromptThatEachChoose) {
  CostModelExecutor executor({.costs = kCosts});
  const std::vector<TokenId> many(64);
  StepPlan plan;
  plan.slices = {Slice(Phase::kDecode, 64, many, false)};
  ASSERT_TRUE(executor.Step(plan).ok());
  EXPECT_NEAR(absl::ToDoubleSeconds(executor.duration()),
              1 + 0.5 * 64 + 100 * 2.5 * 64, 1e-6);
}

TEST(CostModelExecutorTest, NoiseHasMeanOneAndTheSpreadAskedFor) {
  CostModelExecutor executor(
      {.costs = {.constant = 1}, .noise = 0.2, .seed = 3});
  double sum = 0, squares = 0;
  constexpr int kSteps = 20'000;
  for (int i = 0; i < kSteps; ++i) {
    ASSERT_TRUE(executor.Step({}).ok());
    const double seconds = absl::ToDoubleSeconds(executor.duration());
    sum += seconds;
    squares += seconds * seconds;
  }
  const double mean = sum / kSteps;
  // Ten standard errors.
  EXPECT_NEAR(mean, 1, 10 * 0.2 / std::sqrt(kSteps));
  EXPECT_NEAR(std::sqrt(squares / kSteps - mean * mean), 0.2, 0.02);
}

}  // namespace
}  // namespace sparseserve
