#include "server/simulation/step_costs.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/metrics/metrics.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

TEST(StepCostsTest, ReadsTerms) {
  const auto costs = ParseStepCosts(
      "constant=4ms,prompt_row=500us,decode_row=1ms,decode_block=2us,"
      "prompt_block=3us");
  ASSERT_TRUE(costs.ok()) << costs.status();
  EXPECT_DOUBLE_EQ(costs->constant, 4e-3);
  EXPECT_DOUBLE_EQ(costs->decode_row, 1e-3);
  EXPECT_DOUBLE_EQ(costs->prompt_row, 5e-4);
  EXPECT_DOUBLE_EQ(costs->decode_block, 2e-6);
  EXPECT_DOUBLE_EQ(costs->prompt_block, 3e-6);
}

TEST(StepCostsTest, RefusesWhatIsNoCost) {
  for (const char* const text :
       {"", "constant", "constant=", "constant=4", "constant=-1ms", "rows=1ms",
        "prompt_row=1ms", "constant=inf", "constant=0s,decode_row=1ms"}) {
    EXPECT_EQ(ParseStepCosts(text).status().code(),
              absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(StepCostsTest, ReadsWhatTheServerExports) {
  Metrics::Options options;
  options.model_name = "small";
  Metrics metrics(options);
  metrics.SetStepCosts({0.5, 0.25, 0.125, 0.0625, 2});
  const auto costs = ReadScrapedCosts(metrics.Serialize());
  ASSERT_TRUE(costs.ok()) << costs.status();
  EXPECT_EQ(costs->constant, 0.5);
  EXPECT_EQ(costs->decode_row, 0.25);
  EXPECT_EQ(costs->prompt_row, 0.125);
  EXPECT_EQ(costs->decode_block, 0.0625);
  EXPECT_EQ(costs->prompt_block, 2);
}

TEST(StepCostsTest, SaysWhatAScrapeLacks) {
  const auto costs = ReadScrapedCosts(
      "sparseserve_step_cost_seconds{model_name=\"a\",term=\"constant\"} 1\n");
  EXPECT_EQ(costs.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(costs.status().message()), HasSubstr("decode_row"));
}

}  // namespace
}  // namespace sparseserve
