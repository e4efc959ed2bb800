// The profile in deploy/profiles is one of the default model that this program
// takes: it would be refused after a change of kKernelVersion, and is to be
// measured anew then.

#include <fstream>
#include <iterator>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/plan_profile_conversion.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

ModelInfo DefaultModel() {
  ModelInfo model;
  model.layers = 30;
  model.heads = 9;
  model.kv_heads = 3;
  model.context_tokens = 8192;
  model.weights_sha256 =
      "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
  return model;
}

TEST(DefaultProfileTest, IsOfTheModelThatIsFetched) {
  std::ifstream script("deploy/fetch-model.sh");
  const std::string text(std::istreambuf_iterator<char>(script), {});
  EXPECT_THAT(text, HasSubstr(DefaultModel().weights_sha256));
}

TEST(DefaultProfileTest, IsTaken) {
  const auto profile = ReadPlanProfile(
      "deploy/profiles/SmolLM2-135M-Instruct.Q4_1.textproto", DefaultModel());
  ASSERT_TRUE(profile.ok()) << profile.status();
  int prompts = 0;
  int outputs = 0;
  for (const CalibratedPlan& plan : profile->plans) {
    prompts += plan.QualityOf(Phase::kPrefill, 2048) != nullptr;
    outputs += plan.QualityOf(Phase::kDecode, 2048) != nullptr;
  }
  EXPECT_GE(prompts, 2);
  EXPECT_GE(outputs, 2);
}

}  // namespace
}  // namespace sparseserve
