#include "server/scheduling/step_cost_model.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// A machine whose steps take just what the model can say.
double TrueSeconds(const StepWork& work) {
  return 2e-3 + 4e-4 * work.decode_rows + 1e-4 * work.prompt_rows +
         3e-6 * work.decode_blocks + 5e-5 * work.prompt_blocks;
}

class StepCostModelTest : public ::testing::Test {
 protected:
  double Uniform(double least, double most) {
    return std::uniform_real_distribution<double>(least, most)(random_);
  }
  // Some steps with a prompt, some without, as serving has them.
  StepWork Draw() {
    StepWork work;
    work.decode_rows = std::floor(Uniform(0, 32));
    work.decode_blocks = work.decode_rows * Uniform(1, 60);
    if (Uniform(0, 1) < 0.5) {
      work.prompt_rows = 64 * std::floor(Uniform(1, 8));
      work.prompt_blocks = work.prompt_rows / 64 * Uniform(1, 100);
    }
    return work;
  }
  void Learn(int steps, double slowness = 1) {
    for (int i = 0; i < steps; ++i) {
      const StepWork work = Draw();
      model_.Observe(work, absl::Seconds(slowness * TrueSeconds(work)));
    }
  }
  // The largest relative error over fresh steps.
  double WorstError(double slowness = 1) {
    double worst = 0;
    for (int i = 0; i < 200; ++i) {
      const StepWork work = Draw();
      const double expected = slowness * TrueSeconds(work);
      const double predicted = absl::ToDoubleSeconds(model_.Predict(work));
      worst = std::max(worst, std::abs(predicted / expected - 1));
    }
    return worst;
  }

  std::mt19937 random_{7};
  StepCostModel model_;
};

TEST_F(StepCostModelTest, SaysNothingBeforeItHasSeenSteps) {
  EXPECT_FALSE(model_.is_ready());
  Learn(StepCostModel::kLeastSteps - 1);
  EXPECT_FALSE(model_.is_ready());
  Learn(1);
  EXPECT_TRUE(model_.is_ready());
}

TEST_F(StepCostModelTest, LearnsWhatStepsCost) {
  Learn(400);
  EXPECT_LT(WorstError(), 0.05);
}

TEST_F(StepCostModelTest, FollowsAMachineThatBecomesSlower) {
  Learn(400);
  Learn(3000, 2);
  EXPECT_LT(WorstError(2), 0.1);
}

TEST_F(StepCostModelTest, StepsThatHangMoveItLittle) {
  Learn(400);
  for (int i = 0; i < 20; ++i) {
    const StepWork work = Draw();
    model_.Observe(work, absl::Seconds(50 * TrueSeconds(work)));
    Learn(20);
  }
  EXPECT_LT(WorstError(), 0.1);
}

TEST_F(StepCostModelTest, NothingGetsCheaperWithMoreWork) {
  // Steps that take less the more rows they have.
  for (int i = 0; i < 300; ++i) {
    StepWork work;
    work.decode_rows = 1 + i % 30;
    work.decode_blocks = 2 * work.decode_rows;
    model_.Observe(work, absl::Milliseconds(40 - i % 30));
  }
  StepWork less = {.decode_rows = 1, .decode_blocks = 2};
  StepWork more = {.decode_rows = 100, .decode_blocks = 200};
  EXPECT_LE(model_.Predict(less), model_.Predict(more));
  EXPECT_GT(model_.Predict(less), absl::ZeroDuration());
}

TEST_F(StepCostModelTest, MarginCoversNineteenStepsOfTwenty) {
  const auto noisy = [this](const StepWork& work) {
    return absl::Seconds(TrueSeconds(work) * Uniform(0.8, 1.2));
  };
  for (int i = 0; i < 2000; ++i) {
    const StepWork work = Draw();
    model_.Observe(work, noisy(work));
  }
  int within = 0;
  for (int i = 0; i < 2000; ++i) {
    const StepWork work = Draw();
    within += noisy(work) <= model_.PredictP95(work);
  }
  EXPECT_GT(within, 2000 * 0.90);
  EXPECT_LT(within, 2000 * 0.99);
  EXPECT_GE(model_.margin(), 1);
}

TEST_F(StepCostModelTest, ImpossibleDurationsTeachNothing) {
  Learn(100);
  const StepWork work = Draw();
  const absl::Duration before = model_.Predict(work);
  model_.Observe(work, absl::ZeroDuration());
  model_.Observe(work, -absl::Seconds(1));
  model_.Observe(work, absl::InfiniteDuration());
  EXPECT_EQ(model_.Predict(work), before);
}

}  // namespace
}  // namespace sparseserve
