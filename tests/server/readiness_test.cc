#include "server/readiness.h"

#include <atomic>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

constexpr absl::Duration kTimeout = absl::Minutes(1);
constexpr Readiness::Health kReady = {.alive = true, .ready = true};
constexpr Readiness::Health kHangs = {.alive = false, .ready = false};
constexpr Readiness::Health kDrains = {.alive = true, .ready = false};

// A loop that turns, hangs or sleeps as the test says.
class ReadinessTest : public ::testing::Test {
 protected:
  Readiness::Dependencies Loop() {
    return {[this] {
              MutexLock lock(mu_);
              ++looks_;
              changed_.NotifyAll();
              return since_last_turn_;
            },
            [this] {
              MutexLock lock(mu_);
              ++wakes_;
              if (wakes_up_) since_last_turn_ = absl::ZeroDuration();
            },
            [this](const Readiness::Health& health) {
              MutexLock lock(mu_);
              published_.push_back(health);
              changed_.NotifyAll();
            }};
  }
  void SetSinceLastTurn(absl::Duration duration) {
    MutexLock lock(mu_);
    since_last_turn_ = duration;
  }
  void WaitForLooks(int more) {
    MutexLock lock(mu_);
    for (const int looks = looks_ + more; looks_ < looks;) changed_.Wait(mu_);
  }
  std::vector<Readiness::Health> WaitForPublished(size_t count) {
    MutexLock lock(mu_);
    while (published_.size() < count) changed_.Wait(mu_);
    return published_;
  }
  int wakes() {
    MutexLock lock(mu_);
    return wakes_;
  }

  const Readiness::Options options_ = {.stall_timeout = kTimeout,
                                       .look_every = absl::Milliseconds(1)};
  bool wakes_up_ = false;  // set before the start

 private:
  Mutex mu_;
  CondVar changed_;
  absl::Duration since_last_turn_ ABSL_GUARDED_BY(mu_);
  int looks_ ABSL_GUARDED_BY(mu_) = 0;
  int wakes_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Readiness::Health> published_ ABSL_GUARDED_BY(mu_);
};

TEST_F(ReadinessTest, ALoopThatHangsIsNotReadyUntilItTurnsAgain) {
  const Readiness readiness(options_, Loop());
  EXPECT_THAT(WaitForPublished(1), ElementsAre(kReady));
  SetSinceLastTurn(kTimeout + absl::Nanoseconds(1));
  EXPECT_THAT(WaitForPublished(2), ElementsAre(kReady, kHangs));
  SetSinceLastTurn(absl::ZeroDuration());
  EXPECT_THAT(WaitForPublished(3), ElementsAre(kReady, kHangs, kReady));
}

TEST_F(ReadinessTest, ALoopThatTurnsInTimeStaysReady) {
  const Readiness readiness(options_, Loop());
  SetSinceLastTurn(kTimeout);
  WaitForLooks(4);
  EXPECT_THAT(WaitForPublished(1), ElementsAre(kReady));
  EXPECT_EQ(wakes(), 0);
}

TEST_F(ReadinessTest, ALoopThatOnlySleepsIsWokenFirst) {
  wakes_up_ = true;
  const Readiness readiness(options_, Loop());
  SetSinceLastTurn(kTimeout + absl::Nanoseconds(1));
  WaitForLooks(4);
  EXPECT_THAT(WaitForPublished(1), ElementsAre(kReady));
  EXPECT_EQ(wakes(), 1);
}

TEST_F(ReadinessTest, OnceClosedItIsNotReadyAndStillWatchedForItsLife) {
  Readiness readiness(options_, Loop());
  readiness.Close();
  EXPECT_THAT(WaitForPublished(2), ElementsAre(kReady, kDrains));
  SetSinceLastTurn(kTimeout + absl::Nanoseconds(1));
  EXPECT_THAT(WaitForPublished(3), ElementsAre(kReady, kDrains, kHangs));
  SetSinceLastTurn(absl::ZeroDuration());
  EXPECT_THAT(WaitForPublished(4),
              ElementsAre(kReady, kDrains, kHangs, kDrains));
}

TEST_F(ReadinessTest, ALoopThatEndedDoesNotHang) {
  Readiness readiness(options_, Loop());
  readiness.Close();
  readiness.LoopEnded();
  SetSinceLastTurn(kTimeout + absl::Nanoseconds(1));
  readiness.Close();
  EXPECT_THAT(WaitForPublished(2), ElementsAre(kReady, kDrains));
}

}  // namespace
}  // namespace sparseserve
