#include "engine/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam()};
};

TEST_P(ThreadPoolTest, CoversEveryIndexOnce) {
  EXPECT_EQ(pool_.threads(), GetParam());
  for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {1, 3, 64, 5000}) {
      // Not atomic: two workers on one index would be a race.
      std::vector<int> visits(count, 0);
      pool_.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) ++visits[i];
      });
      EXPECT_THAT(visits, testing::Each(1)) << count << " by " << grain;
    }
  }
}

TEST_P(ThreadPoolTest, RangesAreBoundedByTheGrain) {
  std::atomic<int64_t> longest = 0;
  std::atomic<bool> is_worker_known = true;
  pool_.ParallelFor(100, 7, [&](int64_t begin, int64_t end, int worker) {
    int64_t seen = longest;
    while (end - begin > seen &&
           !longest.compare_exchange_weak(seen, end - begin)) {
    }
    if (worker < 0 || worker >= pool_.threads()) is_worker_known = false;
  });
  EXPECT_EQ(longest, 7);
  EXPECT_TRUE(is_worker_known);
}

TEST_P(ThreadPoolTest, RangesBeginInAscendingOrder) {
  // A range begins after every range before it was handed out; on one worker
  // its own ranges therefore ascend.
  std::vector<std::vector<int64_t>> begins(pool_.threads());
  pool_.ParallelFor(500, 1, [&](int64_t begin, int64_t, int worker) {
    begins[worker].push_back(begin);
  });
  for (const std::vector<int64_t>& mine : begins) {
    EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end()));
  }
}

TEST_P(ThreadPoolTest, WorkOfOneRegionIsSeenByTheNext) {
  constexpr int64_t kCells = 37;
  std::vector<int64_t> cells(kCells, 0);
  for (int region = 0; region < 3000; ++region) {
    // Each cell reads its neighbour of the region before.
    std::vector<int64_t> next(kCells);
    pool_.ParallelFor(kCells, 1 + region % 5,
                      [&](int64_t begin, int64_t end, int) {
                        for (int64_t i = begin; i < end; ++i) {
                          next[i] = cells[(i + 1) % kCells] + 1;
                        }
                      });
    cells = std::move(next);
  }
  EXPECT_THAT(cells, testing::Each(3000));
}

TEST_P(ThreadPoolTest, SleepersWakeForNewWork) {
  // Long serial stretches let the workers fall asleep between regions.
  for (int region = 0; region < 20; ++region) {
    volatile int64_t busy = 0;
    for (int i = 0; i < 300000; ++i) busy = busy + 1;
    std::atomic<int64_t> sum = 0;
    pool_.ParallelFor(16, 1,
                      [&](int64_t begin, int64_t, int) { sum += begin; });
    EXPECT_EQ(sum, 120);
  }
}

TEST_P(ThreadPoolTest, AnotherThreadMayCallNext) {
  std::atomic<int> calls = 0;
  const auto count = [&](int64_t, int64_t, int) { ++calls; };
  pool_.ParallelFor(10, 1, count);
  std::thread([&] { pool_.ParallelFor(10, 1, count); }).join();
  EXPECT_EQ(calls, 20);
}

TEST_P(ThreadPoolTest, IsDestroyedWhileItsWorkersAreAwake) {
  for (int i = 0; i < 50; ++i) {
    ThreadPool brief(GetParam());
    std::atomic<int> calls = 0;
    brief.ParallelFor(4, 1, [&](int64_t, int64_t, int) { ++calls; });
    EXPECT_EQ(calls, 4);
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace sparseserve
