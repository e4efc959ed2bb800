#include "server/slowed_engine.h"

#include <fstream>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

class SlowedEngineTest : public ::testing::Test {
 protected:
  // Seconds that an empty step says it took, `file` holding `text`.
  double StepSeconds(const std::string& text) {
    std::ofstream(file_) << text;
    const absl::StatusOr<StepResult> result = engine_->Step({});
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(result->times.attention, result->times.total);
    return result->times.total;
  }

  const testing::TestFolder folder_;
  const std::string file_ = folder_.path() + "/delay";
  const std::unique_ptr<Engine> engine_ = SlowedEngine(
      std::make_unique<testing::FakeEngine>(testing::FakeEngine::Options()),
      file_);
};

TEST_F(SlowedEngineTest, StepsTakeLongerByWhatTheFileSays) {
  EXPECT_EQ(StepSeconds("0.002\n"), 0.002);
  EXPECT_EQ(StepSeconds("0"), 0);
  EXPECT_EQ(StepSeconds("0.001"), 0.001);
}

TEST_F(SlowedEngineTest, WhatIsNoDelaySlowsNothing) {
  for (const char* text : {"", "soon", "-1", "61", "nan", "inf"}) {
    EXPECT_EQ(StepSeconds(text), 0) << text;
  }
}

TEST_F(SlowedEngineTest, IsTheEngineBehindIt) {
  EXPECT_EQ(engine_->info().name, "Fake");
  EXPECT_EQ(engine_->kv_pages(), 64);
  EXPECT_EQ(engine_->device(), "cpu");
  EXPECT_NE(engine_->DeviceSummary().find("slowed"), std::string::npos);
}

}  // namespace
}  // namespace sparseserve
