#include "server/warm_up.h"

#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_engine.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::FakeEngine;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(WarmUpTest, RunsAPromptAndATokenBehindIt) {
  FakeEngine engine{FakeEngine::Options()};
  std::vector<std::pair<Phase, size_t>> slices;
  engine.executor().on_step = [&slices](const StepPlan& plan) {
    for (const StepSlice& slice : plan.slices) {
      slices.emplace_back(slice.phase, slice.tokens.size());
    }
    return absl::OkStatus();
  };
  EXPECT_TRUE(WarmUp(engine).ok());
  EXPECT_THAT(slices, ElementsAre(Pair(Phase::kPrefill, kPageTokens),
                                  Pair(Phase::kDecode, 1)));
  EXPECT_THAT(engine.executor().breaches(), IsEmpty());
}

TEST(WarmUpTest, FitsWhatIsSmall) {
  for (const FakeEngine::Options& options :
       {FakeEngine::Options{.context_tokens = 10},
        FakeEngine::Options{.kv_pages = 1},
        FakeEngine::Options{.max_step_tokens = 16}}) {
    FakeEngine engine(options);
    EXPECT_TRUE(WarmUp(engine).ok());
    EXPECT_THAT(engine.executor().breaches(), IsEmpty());
  }
}

TEST(WarmUpTest, AModelThatDoesNotRunIsToldOf) {
  FakeEngine engine{FakeEngine::Options()};
  engine.executor().on_step = [](const StepPlan&) {
    return absl::InternalError("the device is gone");
  };
  EXPECT_THAT(std::string(WarmUp(engine).message()),
              HasSubstr("the model does not run: the device is gone"));
}

}  // namespace
}  // namespace sparseserve
