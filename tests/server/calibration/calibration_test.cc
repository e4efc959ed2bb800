#include "server/calibration/calibration.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "server/rpc/plan_profile_conversion.h"
#include "tests/testing/test_folder.h"
#include "tests/testing/tiny_engine.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::TestFolder;
using testing::TinyModel;

// An engine that counts its steps.
class CountingEngine : public Engine {
 public:
  CountingEngine() {
    TinyModel model;
    model.attention_gain = 6;
    Engine::Options options = testing::ExactOptions();
    options.measure_recall = true;
    options.fingerprint_weights = true;
    engine_ = testing::MakeEngine(model, options);
  }

  int steps() const { return steps_; }

  absl::StatusOr<StepResult> Step(const StepPlan& plan) override {
    ++steps_;
    return engine_->Step(plan);
  }
  const ModelInfo& info() const override { return engine_->info(); }
  const Tokenizer& tokenizer() const override { return engine_->tokenizer(); }
  const ChatTemplate* chat_template() const override { return nullptr; }
  int kv_pages() const override { return engine_->kv_pages(); }
  int max_step_tokens() const override { return engine_->max_step_tokens(); }
  MemoryUse memory() const override { return engine_->memory(); }
  std::string DeviceSummary() const override { return ""; }
  std::string device() const override { return "cpu"; }
  std::string simd() const override { return ""; }
  std::string compute_dtype() const override { return "f32"; }

 private:
  std::unique_ptr<Engine> engine_;
  int steps_ = 0;
};

class CalibrationTest : public ::testing::Test {
 protected:
  CalibrationTest() {
    options_.bands = *BandsBetween({64, 192, 320}, 512);
    options_.blocks_per_band = 1;
    options_.window_blocks = 2;
    options_.head_budgets = {0.7};
    options_.divergence_levels = {0.001, 0.01, 0.1, 1};
    options_.stopwatch = [this] { return seconds_ += seconds_a_look_; };
    for (uint32_t i = 0; i < 3; ++i) {
      corpus_.calibration.push_back(
          {"c" + std::to_string(i), testing::RandomTokens(320, i)});
      corpus_.held_out.push_back(
          {"h" + std::to_string(i), testing::RandomTokens(320, 10 + i)});
    }
    corpus_.sha256 = "digest";
  }

  CalibrationResult Run(MeasurementStore& store) {
    absl::StatusOr<CalibrationResult> result =
        Calibrate(engine_, corpus_, options_, store);
    EXPECT_TRUE(result.ok()) << result.status();
    return *std::move(result);
  }
  CalibrationResult Run() { return Run(**MeasurementStore::Open("", "")); }

  CountingEngine engine_;
  Corpus corpus_;
  CalibrationOptions options_;
  double seconds_ = 0;
  double seconds_a_look_ = 0.001;
};

TEST_F(CalibrationTest, ItsProfileIsOneThatTheServerTakes) {
  const CalibrationResult result = Run();
  EXPECT_EQ(result.survey_texts, 3);
  EXPECT_EQ(result.held_out_texts, 3);
  ASSERT_GE(result.profile.plans.size(), 2);
  const auto converted =
      ConvertPlanProfile(ToProto(result.profile), engine_.info());
  ASSERT_TRUE(converted.ok()) << converted.status();
  EXPECT_EQ(result.profile.text.sha256, "digest");
  EXPECT_EQ(result.profile.text.tokens, 6 * 320);
  EXPECT_EQ(result.profile.text.held_out_tokens, 3 * 320);
  int prompts = 0;
  int outputs = 0;
  for (const CalibratedPlan& plan : result.profile.plans) {
    const auto& prompt = plan.quality[static_cast<int>(Phase::kPrefill)];
    const auto& output = plan.quality[static_cast<int>(Phase::kDecode)];
    prompts += !prompt.empty();
    outputs += !output.empty();
    for (const PlanQuality& band : prompt) {
      EXPECT_EQ(band.sequences, 3);
      EXPECT_EQ(band.rows, 3 * 64);
    }
  }
  EXPECT_GE(prompts, 1);
  EXPECT_GE(outputs, 1);
}

TEST_F(CalibrationTest, TheSameIsFoundAgain) {
  const CalibrationResult first = Run();
  const CalibrationResult again = Run();
  EXPECT_TRUE(MessageDifferencer::Equals(ToProto(first.profile),
                                         ToProto(again.profile)));
  options_.seed = 2;
  EXPECT_FALSE(MessageDifferencer::Equals(ToProto(first.profile),
                                          ToProto(Run().profile)));
}

TEST_F(CalibrationTest, WhatWasMeasuredIsNotMeasuredAgain) {
  const TestFolder folder;
  const std::string path = folder.path() + "/state";
  const CalibrationResult first = Run(**MeasurementStore::Open(path, "p"));
  const int steps = engine_.steps();
  const CalibrationResult resumed = Run(**MeasurementStore::Open(path, "p"));
  EXPECT_EQ(engine_.steps(), steps);
  EXPECT_TRUE(MessageDifferencer::Equals(ToProto(first.profile),
                                         ToProto(resumed.profile)));
}

TEST_F(CalibrationTest, ABudgetLeavesOutTexts) {
  seconds_a_look_ = 1;
  options_.budget_seconds = 5;
  const CalibrationResult result = Run();
  EXPECT_EQ(result.survey_texts, 1);
  EXPECT_EQ(result.held_out_texts, 2);
  EXPECT_GT(result.full_seconds, result.seconds);
  for (const CalibratedPlan& plan : result.profile.plans) {
    for (const auto& bands : plan.quality) {
      for (const PlanQuality& band : bands) EXPECT_EQ(band.sequences, 2);
    }
  }
}

TEST_F(CalibrationTest, ProgressRisesToItsEnd) {
  double last = 0;
  double left = 0;
  options_.progress = [&](const CalibrationProgress& progress) {
    EXPECT_GE(progress.done, last);
    EXPECT_LE(progress.done, 1);
    EXPECT_FALSE(progress.doing.empty());
    last = progress.done;
    left = progress.seconds_left;
  };
  Run();
  EXPECT_GT(last, 0.5);
  EXPECT_GE(left, 0);
}

}  // namespace
}  // namespace sparseserve
