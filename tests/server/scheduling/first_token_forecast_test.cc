#include "server/scheduling/first_token_forecast.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// A step takes 10 ms, 2 ms more for an output token, 1 ms for a prompt's row.
StepCostModel Learned() {
  StepCostModel cost;
  for (int i = 0; i < 300; ++i) {
    const StepWork work = {.decode_rows = static_cast<double>(i % 5),
                           .prompt_rows = static_cast<double>(i * 7 % 90)};
    cost.Observe(
        work, absl::Milliseconds(10 + 2 * work.decode_rows + work.prompt_rows));
  }
  return cost;
}

double Ms(absl::Duration duration) {
  return absl::ToDoubleMilliseconds(duration);
}

TEST(FirstTokenForecastTest, AloneItIsTheStepsOfItsPrompt) {
  const StepCostModel cost = Learned();
  const LoadAhead load = {.prompt_rows = 100};
  EXPECT_NEAR(Ms(ForecastFirstToken(cost, load, {.prompt_rows = 50})), 60, 2);
  EXPECT_NEAR(Ms(ForecastFirstToken(cost, load, {.prompt_rows = 250})), 280, 5);
}

TEST(FirstTokenForecastTest, PromptsAheadAndOutputTakeTheirTime) {
  const StepCostModel cost = Learned();
  const LoadAhead load = {.prompts = {.prompt_rows = 150},
                          .decodes = {.decode_rows = 5},
                          .prompt_rows = 100};
  // Two steps of 10 + 10 ms, and 200 rows.
  EXPECT_NEAR(Ms(ForecastFirstToken(cost, load, {.prompt_rows = 50})), 240, 5);
}

TEST(FirstTokenForecastTest, WaitsForAPlace) {
  const StepCostModel cost = Learned();
  const LoadAhead load = {.prompt_rows = 100,
                          .place_wait = absl::Milliseconds(500)};
  EXPECT_NEAR(Ms(ForecastFirstToken(cost, load, {.prompt_rows = 50})), 560, 2);
}

TEST(FirstTokenForecastTest, RowsFollowFromTheTimeOfAStep) {
  const StepCostModel cost = Learned();
  const StepWork decodes = {.decode_rows = 5};
  const auto rows = [&](int ms) {
    return PromptRowsWithin(cost, decodes, absl::Milliseconds(ms), 64, 512);
  };
  EXPECT_NEAR(rows(120), 100, 4);
  EXPECT_EQ(rows(1), 64);
  EXPECT_EQ(rows(10'000), 512);
}

}  // namespace
}  // namespace sparseserve
