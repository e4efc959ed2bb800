#include "server/scheduling/late_share.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(LateShareTest, NeverExceedsItsShareOfAll) {
  LateShare share(0.25, 512);
  int all = 0;
  int late = 0;
  for (int step = 0; step < 1000; ++step) {
    const int other = 10 + 17 * (step % 7);
    // As much as it may have, in chunks of pages.
    const int own = share.allowance() / 64 * 64;
    share.Count(other + own, own);
    all += other + own;
    late += own;
    ASSERT_LE(late, 0.25 * all);
  }
  EXPECT_GT(late, 0.2 * all);
}

TEST(LateShareTest, SavesNoMoreThanASteps) {
  LateShare share(0.5, 100);
  for (int step = 0; step < 50; ++step) share.Count(100, 0);
  EXPECT_EQ(share.allowance(), 100);
  share.Count(200, 200);
  EXPECT_EQ(share.allowance(), 0);
}

TEST(LateShareTest, OwesNoMoreThanASteps) {
  LateShare share(0.2, 100);
  // Answers that are written on, whatever the share.
  for (int step = 0; step < 5000; ++step) share.Count(100, 60);
  EXPECT_EQ(share.allowance(), 0);
  for (int step = 0; step < 6; ++step) share.Count(100, 0);
  EXPECT_EQ(share.allowance(), 20);
}

}  // namespace
}  // namespace sparseserve
