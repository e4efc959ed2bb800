#include "engine/kv/page_pool.h"

#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

TEST(PagePoolTest, GrowsALeaseInPlace) {
  PagePool pool(5);
  PageLease lease;
  ASSERT_TRUE(pool.Grow(lease, 2));
  const std::vector<PageId> first(lease.pages().begin(), lease.pages().end());
  ASSERT_TRUE(pool.Grow(lease, 4));
  EXPECT_EQ(lease.size(), 4);
  EXPECT_EQ(lease.pages()[0], first[0]);
  EXPECT_EQ(lease.pages()[1], first[1]);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.leased(), 4);
}

TEST(PagePoolTest, RefusesToGrowPastTheFreePagesAndChangesNothing) {
  PagePool pool(3);
  PageLease held;
  PageLease refused;
  ASSERT_TRUE(pool.Grow(held, 2));
  EXPECT_FALSE(pool.Grow(refused, 2));
  EXPECT_EQ(refused.size(), 0);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_TRUE(pool.Grow(refused, 1));
}

TEST(PagePoolTest, GrowingToFewerPagesKeepsTheLease) {
  PagePool pool(3);
  PageLease lease;
  ASSERT_TRUE(pool.Grow(lease, 2));
  EXPECT_TRUE(pool.Grow(lease, 1));
  EXPECT_EQ(lease.size(), 2);
}

TEST(PagePoolTest, DestroyedLeaseGivesItsPagesBack) {
  PagePool pool(3);
  {
    PageLease lease;
    ASSERT_TRUE(pool.Grow(lease, 3));
    EXPECT_EQ(pool.free(), 0);
  }
  EXPECT_EQ(pool.free(), 3);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

TEST(PagePoolTest, MovedFromLeaseIsEmptyAndMayBeUsedAgain) {
  PagePool pool(4);
  PageLease from;
  ASSERT_TRUE(pool.Grow(from, 2));
  PageLease to(std::move(from));
  EXPECT_EQ(to.size(), 2);
  EXPECT_EQ(from.size(), 0);  // NOLINT(bugprone-use-after-move)
  ASSERT_TRUE(pool.Grow(from, 1));
  EXPECT_EQ(pool.leased(), 3);
}

TEST(PagePoolTest, AssignmentGivesBackWhatTheTargetHeld) {
  PagePool pool(4);
  PageLease a;
  PageLease b;
  ASSERT_TRUE(pool.Grow(a, 3));
  ASSERT_TRUE(pool.Grow(b, 1));
  const PageId page = b.pages()[0];
  a = std::move(b);
  EXPECT_THAT(a.pages(), ElementsAre(page));
  EXPECT_EQ(pool.leased(), 1);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

TEST(PagePoolTest, RandomTrafficNeverGivesAPageTwoOwners) {
  constexpr int kPages = 17;
  PagePool pool(kPages);
  std::vector<PageLease> leases(6);
  std::mt19937 random(1);
  for (int step = 0; step < 2000; ++step) {
    PageLease& lease = leases[random() % leases.size()];
    if (random() % 3 == 0) {
      lease = PageLease();
    } else {
      const int before = lease.size();
      const int wanted = before + static_cast<int>(random() % 4);
      const bool fits = wanted - before <= pool.free();
      EXPECT_EQ(pool.Grow(lease, wanted), fits);
      EXPECT_EQ(lease.size(), fits ? wanted : before);
    }
    std::set<PageId> owned;
    int held = 0;
    for (const PageLease& each : leases) {
      owned.insert(each.pages().begin(), each.pages().end());
      held += each.size();
    }
    ASSERT_EQ(static_cast<int>(owned.size()), held);
    ASSERT_EQ(pool.leased(), held);
    ASSERT_TRUE(pool.CheckInvariants().ok());
  }
}

}  // namespace
}  // namespace sparseserve
