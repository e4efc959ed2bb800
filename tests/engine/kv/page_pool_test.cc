#include "engine/kv/page_pool.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
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

std::vector<TokenId> Tokens(int pages, TokenId token) {
  return std::vector<TokenId>(size_t{kPageTokens} * pages, token);
}

TEST(PagePoolTest, SharedPagesAreFreeWhenTheLastOwnerLeaves) {
  PagePool pool(5);
  PageLease first, second;
  ASSERT_TRUE(pool.Grow(first, 2));
  pool.Share(second, first.pages());
  ASSERT_TRUE(pool.Grow(second, 3));
  EXPECT_EQ(pool.leased(), 3);
  EXPECT_EQ(pool.owners(first.pages()[0]), 2);
  EXPECT_EQ(pool.owners(second.pages()[2]), 1);
  first = PageLease();
  EXPECT_EQ(pool.leased(), 3);
  EXPECT_TRUE(pool.CheckInvariants().ok());
  second = PageLease();
  EXPECT_EQ(pool.free(), 5);
}

TEST(PagePoolTest, EnteredPagesAreCachedWhenTheLastOwnerLeaves) {
  PagePool pool(5);
  {
    PageLease lease;
    ASSERT_TRUE(pool.Grow(lease, 2));
    ASSERT_TRUE(pool.Enter(lease, 0, "", Tokens(1, 7), {}));
  }
  EXPECT_EQ(pool.cached(), 1);
  EXPECT_EQ(pool.free(), 4);
  EXPECT_EQ(pool.leased(), 0);
  const PrefixIndex::Run run = pool.index().Find("", Tokens(1, 7), {});
  PageLease again;
  pool.Share(again, run.pages);
  EXPECT_EQ(pool.cached(), 0);
  EXPECT_EQ(pool.leased(), 1);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

TEST(PagePoolTest, FreePagesAreTakenBeforeCachedOnesAreEvicted) {
  PagePool pool(5);
  {
    PageLease lease;
    ASSERT_TRUE(pool.Grow(lease, 2));
    ASSERT_TRUE(pool.Enter(lease, 0, "", Tokens(1, 7), {}));
    ASSERT_TRUE(pool.Enter(lease, 1, "", Tokens(1, 8), {}));
  }
  PageLease lease;
  ASSERT_TRUE(pool.Grow(lease, 3));
  EXPECT_EQ(pool.cached(), 2);
  EXPECT_EQ(pool.evicted(), 0);
  ASSERT_TRUE(pool.Grow(lease, 4));
  EXPECT_EQ(pool.cached(), 1);
  EXPECT_EQ(pool.evicted(), 1);
  EXPECT_FALSE(pool.Grow(lease, 6));
  EXPECT_EQ(pool.cached(), 1);
  ASSERT_TRUE(pool.Grow(lease, 5));
  EXPECT_EQ(pool.index().entered(), 0);
}

TEST(PagePoolTest, OfTwoPagesThatHoldTheSameOneIsKept) {
  PagePool pool(5);
  PageLease first, second;
  ASSERT_TRUE(pool.Grow(first, 2));
  ASSERT_TRUE(pool.Grow(second, 2));
  ASSERT_TRUE(pool.Enter(first, 0, "", Tokens(1, 7), {}));
  ASSERT_TRUE(pool.Enter(second, 0, "", Tokens(1, 7), {}));
  EXPECT_EQ(second.pages()[0], first.pages()[0]);
  EXPECT_EQ(pool.owners(first.pages()[0]), 2);
  EXPECT_EQ(pool.free(), 2);
  // What is not sure to be the same is left as it is.
  const PageOrigin output = {.is_pure = false};
  ASSERT_TRUE(pool.Enter(first, 1, "", Tokens(1, 8), output));
  EXPECT_FALSE(pool.Enter(second, 1, "", Tokens(1, 8), output));
  EXPECT_NE(second.pages()[1], first.pages()[1]);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

// Sequences that begin alike, in two spaces, with hashes that often collide.
class PagePoolTrafficTest : public ::testing::Test {
 protected:
  struct Running {
    PageLease lease;
    int space = 0;
    std::vector<TokenId> tokens;  // of whole pages
    int entered = 0;
    bool may_enter = true;
    PageOrigin origin;
  };

  int Draw(int below) { return static_cast<int>(random_() % below); }

  std::string Space(const Running& running) const {
    return std::string(1, static_cast<char>('a' + running.space));
  }

  // Three contents of a page, so that prompts often begin alike.
  void AddPages(Running& running, int pages) {
    for (int i = 0; i < pages; ++i) {
      const std::vector<TokenId> page = Tokens(1, Draw(3));
      running.tokens.insert(running.tokens.end(), page.begin(), page.end());
    }
  }

  void Start(Running& running) {
    running = Running();
    running.space = Draw(2);
    running.origin = {static_cast<QualityClass>(Draw(2)), Draw(2), Draw(4) > 0};
    AddPages(running, 1 + Draw(6));
    const PrefixIndex::Run run = pool_.index().Find(
        Space(running), running.tokens,
        {running.origin.quality, Draw(2) == 0, running.origin.plan});
    for (size_t i = 0; i < run.pages.size(); ++i) {
      const auto& [space, tokens] = held_[run.pages[i]];
      ASSERT_EQ(space, running.space);
      ASSERT_EQ(tokens, std::vector<TokenId>(
                            running.tokens.begin(),
                            running.tokens.begin() + (i + 1) * kPageTokens));
      ASSERT_LE(pool_.index().origin(run.pages[i]).quality,
                running.origin.quality);
    }
    pool_.Share(running.lease, run.pages);
    running.entered = static_cast<int>(run.pages.size());
    Grow(running);
  }

  void Grow(Running& running) {
    const int before = running.lease.size();
    const int wanted = static_cast<int>(running.tokens.size()) / kPageTokens;
    const int reachable = before + pool_.free() + pool_.cached();
    const bool fits = pool_.Grow(running.lease, wanted);
    ASSERT_EQ(fits, wanted <= reachable);
    ASSERT_EQ(running.lease.size(), fits ? std::max(wanted, before) : before);
  }

  void Enter(Running& running) {
    if (!running.may_enter || running.entered == running.lease.size()) return;
    const int number = running.entered++;
    const auto tokens = absl::MakeConstSpan(running.tokens);
    running.may_enter = pool_.Enter(
        running.lease, number, Space(running),
        tokens.subspan(number * kPageTokens, kPageTokens), running.origin);
    if (!running.may_enter) return;
    held_[running.lease.pages()[number]] = {
        running.space,
        {running.tokens.begin(),
         running.tokens.begin() + (number + 1) * kPageTokens}};
  }

  void Step() {
    Running& running = running_[Draw(static_cast<int>(running_.size()))];
    const int what = Draw(100);
    if (what < 25) {
      Start(running);
    } else if (what < 80) {
      Enter(running);
    } else if (what < 90) {
      AddPages(running, 1);
      Grow(running);
    } else if (what < 98) {
      running.lease = PageLease();
      running = Running();
    } else if (what < 99) {
      pool_.Forget(Draw(pool_.total()));
    } else if (Draw(50) == 0) {
      pool_.ForgetPlan(Draw(2));
    }
  }

  std::mt19937 random_{1};
  PagePool pool_{37, {.hash = [](int64_t before, auto tokens) -> uint64_t {
                   return (before + tokens[0] / 2) % 5;
                 }}};
  std::vector<Running> running_{7};
  // What the model's pages would hold: of entered pages, all tokens up to
  // their end.
  std::map<PageId, std::pair<int, std::vector<TokenId>>> held_;
};

TEST_F(PagePoolTrafficTest, InvariantsHoldAndHitsHoldWhatTheySay) {
  constexpr int kSteps = 1'000'000;
  for (int step = 0; step < kSteps; ++step) {
    Step();
    if (HasFatalFailure()) return;
    ASSERT_EQ(pool_.free() + pool_.cached() + pool_.leased(), pool_.total());
    if (step % 64 != 0) continue;
    const absl::Status status = pool_.CheckInvariants();
    ASSERT_TRUE(status.ok()) << status;
    std::map<PageId, int> owners;
    for (const Running& running : running_) {
      for (const PageId page : running.lease.pages()) ++owners[page];
    }
    for (PageId page = 0; page < pool_.total(); ++page) {
      ASSERT_EQ(pool_.owners(page), owners[page]);
    }
    ASSERT_EQ(pool_.leased(), static_cast<int>(std::count_if(
                                  owners.begin(), owners.end(),
                                  [](const auto& o) { return o.second > 0; })));
  }
  EXPECT_GT(pool_.evicted(), 1000);
  for (Running& running : running_) running.lease = PageLease();
  EXPECT_EQ(pool_.leased(), 0);
  EXPECT_TRUE(pool_.CheckInvariants().ok());
}

}  // namespace
}  // namespace sparseserve
