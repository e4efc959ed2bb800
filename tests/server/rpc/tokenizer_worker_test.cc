#include "server/rpc/tokenizer_worker.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/signal.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

// Occupies the worker until the test lets it go on.
class StuckJob {
 public:
  explicit StuckJob(TokenizerWorker& worker) {
    EXPECT_TRUE(worker.Submit(1, [signals = signals_] {
      signals->started.Set();
      signals->release.Wait();
    }));
    signals_->started.Wait();
  }
  void Release() { signals_->release.Set(); }

 private:
  // Shared, since the job can end after the test has let go of it.
  struct Signals {
    testing::Signal started;
    testing::Signal release;
  };
  const std::shared_ptr<Signals> signals_ = std::make_shared<Signals>();
};

TEST(TokenizerWorkerTest, RunsJobsInOrderAndAllBeforeItStops) {
  std::vector<int> ran;
  TokenizerWorker worker({});
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(worker.Submit(1, [&ran, i] { ran.push_back(i); }));
  }
  worker.Stop();
  EXPECT_THAT(ran, ElementsAre(0, 1, 2));
  EXPECT_FALSE(worker.Submit(1, [] {}));
}

TEST(TokenizerWorkerTest, RefusesMoreJobsThanItsBound) {
  TokenizerWorker worker({.max_jobs = 2, .max_bytes = 100});
  StuckJob stuck(worker);
  EXPECT_TRUE(worker.Submit(1, [] {}));
  EXPECT_TRUE(worker.Submit(1, [] {}));
  EXPECT_FALSE(worker.Submit(1, [] {}));
  EXPECT_EQ(worker.waiting(), 2);
  stuck.Release();
}

TEST(TokenizerWorkerTest, RefusesMoreBytesThanItsBoundUnlessNothingWaits) {
  TokenizerWorker worker({.max_jobs = 10, .max_bytes = 100});
  StuckJob stuck(worker);
  EXPECT_TRUE(worker.Submit(1000, [] {}));
  EXPECT_FALSE(worker.Submit(1, [] {}));
  stuck.Release();
}

TEST(TokenizerWorkerTest, BytesThatWereWorkedOffMakeRoom) {
  TokenizerWorker worker({.max_jobs = 10, .max_bytes = 100});
  testing::Signal done;
  {
    StuckJob stuck(worker);
    EXPECT_TRUE(worker.Submit(60, [&done] { done.Set(); }));
    EXPECT_FALSE(worker.Submit(60, [] {}));
    stuck.Release();
    done.Wait();
  }
  EXPECT_TRUE(worker.Submit(60, [] {}));
}

}  // namespace
}  // namespace sparseserve
