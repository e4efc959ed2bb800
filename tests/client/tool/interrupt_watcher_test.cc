#include "client/tool/interrupt_watcher.h"

#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <mutex>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(InterruptWatcherTest, TurnsASignalIntoAStop) {
  InterruptWatcher watcher;
  std::mutex mu;
  std::condition_variable changed;
  bool stopped = false;
  const std::stop_callback on_stop(watcher.token(), [&] {
    const std::lock_guard lock(mu);
    stopped = true;
    changed.notify_all();
  });
  EXPECT_EQ(watcher.signal(), 0);
  kill(getpid(), SIGINT);
  std::unique_lock lock(mu);
  changed.wait(lock, [&stopped] { return stopped; });
  EXPECT_EQ(watcher.signal(), SIGINT);
}

TEST(InterruptWatcherTest, EndsWithoutASignal) {
  std::stop_token token;
  {
    InterruptWatcher watcher;
    token = watcher.token();
  }
  EXPECT_FALSE(token.stop_requested());
}

TEST(InterruptWatcherTest, EndsTheProgramAtTheSecondSignal) {
  const auto interrupt_twice = [] {
    InterruptWatcher watcher;
    const std::stop_callback on_stop(watcher.token(),
                                     [] { kill(getpid(), SIGTERM); });
    kill(getpid(), SIGINT);
    while (true) pause();
  };
  EXPECT_EXIT(interrupt_twice(), ::testing::ExitedWithCode(128 + SIGTERM), "");
}

}  // namespace
}  // namespace sparseserve
