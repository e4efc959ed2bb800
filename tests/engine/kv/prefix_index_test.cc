// The index as PagePool fills and evicts it.

#include "engine/kv/prefix_index.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/kv/page_pool.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Wanted = PrefixIndex::Wanted;

// `pages` pages of tokens; page i holds 1000 * kinds[i] and what follows it.
std::vector<TokenId> Prompt(const std::vector<int>& kinds) {
  std::vector<TokenId> tokens;
  for (const int kind : kinds) {
    for (int i = 0; i < kPageTokens; ++i) tokens.push_back(1000 * kind + i);
  }
  return tokens;
}

// Leases pages for the prompt, behind what it finds, and enters them.
PageLease Fill(PagePool& pool, absl::string_view space,
               const std::vector<TokenId>& tokens,
               const PageOrigin& origin = {}, bool is_pure = false) {
  const PrefixIndex::Run run =
      pool.index().Find(space, tokens, {origin.quality, is_pure, origin.plan});
  PageLease lease;
  pool.Share(lease, run.pages);
  const int pages = static_cast<int>(tokens.size()) / kPageTokens;
  EXPECT_TRUE(pool.Grow(lease, pages));
  for (int i = static_cast<int>(run.pages.size()); i < pages; ++i) {
    pool.Enter(
        lease, i, space,
        absl::MakeConstSpan(tokens).subspan(i * kPageTokens, kPageTokens),
        origin);
  }
  return lease;
}

std::vector<PageId> PagesOf(const PageLease& lease) {
  return {lease.pages().begin(), lease.pages().end()};
}

std::vector<PageId> Found(const PagePool& pool, absl::string_view space,
                          const std::vector<TokenId>& tokens,
                          const Wanted& wanted = {}) {
  return pool.index().Find(space, tokens, wanted).pages;
}

TEST(PrefixIndexTest, FindsTheLongestRunOfWholePages) {
  PagePool pool(10);
  const PageLease lease = Fill(pool, "", Prompt({1, 2, 3}));
  const std::vector<PageId> pages = PagesOf(lease);
  EXPECT_EQ(Found(pool, "", Prompt({1, 2, 3})), pages);
  EXPECT_EQ(Found(pool, "", Prompt({1, 2, 3, 4})), pages);
  EXPECT_THAT(Found(pool, "", Prompt({1, 2, 4})),
              ElementsAre(pages[0], pages[1]));
  EXPECT_THAT(Found(pool, "", Prompt({2, 3})), IsEmpty());
  EXPECT_THAT(Found(pool, "", {}), IsEmpty());
  std::vector<TokenId> begun = Prompt({1, 2});
  begun.pop_back();
  EXPECT_THAT(Found(pool, "", begun), ElementsAre(pages[0]));
}

TEST(PrefixIndexTest, OneTokenThatDiffersIsAnotherPage) {
  PagePool pool(10);
  const PageLease lease = Fill(pool, "", Prompt({1, 2}));
  for (const int place : {0, 63, 64, 127}) {
    std::vector<TokenId> tokens = Prompt({1, 2});
    ++tokens[place];
    EXPECT_THAT(Found(pool, "", tokens), SizeIs(place / kPageTokens));
  }
}

TEST(PrefixIndexTest, SamePageBehindAnotherIsAnother) {
  PagePool pool(10);
  const PageLease one = Fill(pool, "", Prompt({1, 3}));
  const PageLease other = Fill(pool, "", Prompt({2, 3}));
  EXPECT_EQ(Found(pool, "", Prompt({1, 3})), PagesOf(one));
  EXPECT_EQ(Found(pool, "", Prompt({2, 3})), PagesOf(other));
  EXPECT_EQ(pool.index().entered(), 4);
}

TEST(PrefixIndexTest, SpacesSeeNothingOfEachOther) {
  PagePool pool(10);
  const PageLease lease = Fill(pool, "a", Prompt({1, 2}));
  for (const char* space : {"", "b", "A", "aa"}) {
    EXPECT_THAT(Found(pool, space, Prompt({1, 2})), IsEmpty()) << space;
  }
  const PageLease other = Fill(pool, "b", Prompt({1, 2}));
  EXPECT_EQ(pool.leased(), 4);
  EXPECT_EQ(Found(pool, "a", Prompt({1, 2})), PagesOf(lease));
  EXPECT_EQ(Found(pool, "b", Prompt({1, 2})), PagesOf(other));
}

TEST(PrefixIndexTest, NumbersOfSpacesThatAreEmptyAreGivenToOthers) {
  PagePool pool(4);
  { const PageLease lease = Fill(pool, "a", Prompt({1})); }
  // All of `a` is evicted, and `b` comes in its place.
  {
    PageLease all;
    ASSERT_TRUE(pool.Grow(all, 4));
  }
  const PageLease lease = Fill(pool, "b", Prompt({1}));
  EXPECT_THAT(Found(pool, "a", Prompt({1})), IsEmpty());
  EXPECT_EQ(Found(pool, "b", Prompt({1})), PagesOf(lease));
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

TEST(PrefixIndexTest, HashesThatCollideCrossNeitherSpacesNorContents) {
  for (const bool by_before : {false, true}) {
    PagePool pool(40, {.hash = [by_before](int64_t before, auto) -> uint64_t {
                    return by_before ? before : 7;
                  }});
    std::vector<PageLease> leases;
    std::vector<std::pair<std::string, std::vector<TokenId>>> prompts;
    for (const char* space : {"a", "b"}) {
      for (const std::vector<int>& kinds :
           {std::vector<int>{1, 2, 3}, {1, 2, 4}, {2, 1, 3}, {3}}) {
        prompts.push_back({space, Prompt(kinds)});
        leases.push_back(Fill(pool, space, prompts.back().second));
      }
    }
    ASSERT_TRUE(pool.CheckInvariants().ok());
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(Found(pool, prompts[i].first, prompts[i].second),
                PagesOf(leases[i]));
    }
    EXPECT_THAT(Found(pool, "a", Prompt({4})), IsEmpty());
    EXPECT_THAT(Found(pool, "c", Prompt({1, 2, 3})), IsEmpty());
    // Tokens that differ, though their hashes do not.
    std::vector<TokenId> other = Prompt({1, 2, 3});
    ++other[100];
    EXPECT_THAT(Found(pool, "a", other), SizeIs(1));
    // Taking one of them out leaves the others where they are.
    pool.Forget(leases[0].pages()[0]);
    ASSERT_TRUE(pool.CheckInvariants().ok());
    EXPECT_THAT(Found(pool, "a", prompts[0].second), IsEmpty());
    for (size_t i = 2; i < prompts.size(); ++i) {
      EXPECT_EQ(Found(pool, prompts[i].first, prompts[i].second),
                PagesOf(leases[i]));
    }
  }
}

TEST(PrefixIndexTest, ReadersGetTheirOwnClassOrBetter) {
  PagePool pool(20);
  const auto with = [](QualityClass quality, int32_t plan) {
    return PageOrigin{quality, plan, true};
  };
  const PageLease exact =
      Fill(pool, "", Prompt({1, 2}), with(QualityClass::kExact, 0));
  const PageLease tenth =
      Fill(pool, "", Prompt({1, 2, 3}), with(QualityClass::kTenth, 1));
  // What the second one found it did not compute again.
  EXPECT_EQ(tenth.pages()[1], exact.pages()[1]);
  EXPECT_EQ(pool.index().origin(tenth.pages()[2]).quality,
            QualityClass::kTenth);
  const std::vector<std::pair<QualityClass, size_t>> rows = {
      {QualityClass::kExact, 2},
      {QualityClass::kThreeHundredths, 2},
      {QualityClass::kTenth, 3},
      {QualityClass::kUnbounded, 3}};
  for (const auto& [quality, pages] : rows) {
    EXPECT_THAT(Found(pool, "", Prompt({1, 2, 3}), {.quality = quality}),
                SizeIs(pages));
  }
}

TEST(PrefixIndexTest, AClassIsTheWorstOfThePageAndThoseBeforeIt) {
  PagePool pool(20);
  const PageLease first =
      Fill(pool, "", Prompt({1}), {QualityClass::kTenth, 1, true});
  // Dense rows that attend to keys of a plan.
  PageLease second;
  pool.Share(second, first.pages());
  ASSERT_TRUE(pool.Grow(second, 2));
  ASSERT_TRUE(
      pool.Enter(second, 1, "", Prompt({2}), {QualityClass::kExact, 0, true}));
  const PageOrigin& origin = pool.index().origin(second.pages()[1]);
  EXPECT_EQ(origin.quality, QualityClass::kTenth);
  EXPECT_FALSE(origin.is_pure);
  EXPECT_THAT(Found(pool, "", Prompt({1, 2}), {QualityClass::kExact}),
              IsEmpty());
}

TEST(PrefixIndexTest, WhoMustReproduceGetsPagesOfTheOwnPlanAlone) {
  PagePool pool(20);
  const PageOrigin dense = {QualityClass::kExact, 0, true};
  const PageOrigin sparse = {QualityClass::kTenth, 1, true};
  const PageLease one = Fill(pool, "", Prompt({1, 2}), dense);
  EXPECT_FALSE(pool.index()
                   .Find("", Prompt({1, 2}), {sparse.quality, false, 1})
                   .is_pure);
  EXPECT_THAT(Found(pool, "", Prompt({1, 2}), {sparse.quality, true, 1}),
              IsEmpty());
  const PageLease other = Fill(pool, "", Prompt({1, 2}), sparse, true);
  const PrefixIndex::Run run =
      pool.index().Find("", Prompt({1, 2}), {sparse.quality, true, 1});
  EXPECT_EQ(run.pages, PagesOf(other));
  EXPECT_TRUE(run.is_pure);
  // Of two that are as long, others get the own plan's too, dense ones the
  // exact one.
  EXPECT_EQ(Found(pool, "", Prompt({1, 2}), {sparse.quality, false, 1}),
            PagesOf(other));
  EXPECT_EQ(Found(pool, "", Prompt({1, 2}), {QualityClass::kUnbounded}),
            PagesOf(one));
}

TEST(PrefixIndexTest, PagesWithRowsOfOutputAreNotPure) {
  PagePool pool(20);
  PageLease lease = Fill(pool, "", Prompt({1}));
  ASSERT_TRUE(pool.Grow(lease, 2));
  ASSERT_TRUE(
      pool.Enter(lease, 1, "", Prompt({2}), {QualityClass::kExact, 0, false}));
  EXPECT_THAT(Found(pool, "", Prompt({1, 2})), SizeIs(2));
  EXPECT_FALSE(pool.index().Find("", Prompt({1, 2}), {}).is_pure);
  EXPECT_THAT(Found(pool, "", Prompt({1, 2}), {.is_pure = true}), SizeIs(1));
}

TEST(PrefixIndexTest, TheLongestOfSeveralRunsWins) {
  PagePool pool(30);
  const PageOrigin dense = {QualityClass::kExact, 0, true};
  const PageOrigin sparse = {QualityClass::kTenth, 1, true};
  const PageLease shorter = Fill(pool, "", Prompt({1, 2}), dense, true);
  const PageLease longer = Fill(pool, "", Prompt({1, 2, 3, 4}), sparse, true);
  EXPECT_EQ(Found(pool, "", Prompt({1, 2, 3, 4}), {QualityClass::kTenth}),
            PagesOf(longer));
  EXPECT_EQ(Found(pool, "", Prompt({1, 2, 3, 4}), {QualityClass::kExact}),
            PagesOf(shorter));
}

TEST(PrefixIndexTest, ForgettingAPlanTakesWhatStandsOnItsPages) {
  PagePool pool(20);
  const PageOrigin dense = {QualityClass::kExact, 0, true};
  const PageOrigin sparse = {QualityClass::kTenth, 1, true};
  const PageLease kept = Fill(pool, "", Prompt({1}), dense);
  {
    PageLease mixed = Fill(pool, "", Prompt({1, 2}), sparse);
    ASSERT_TRUE(pool.Grow(mixed, 3));
    ASSERT_TRUE(pool.Enter(mixed, 2, "", Prompt({3}), dense));
  }
  PageLease running = Fill(pool, "", Prompt({1, 2, 3, 4}), sparse);
  ASSERT_EQ(pool.index().entered(), 4);
  pool.ForgetPlan(1);
  EXPECT_EQ(pool.index().entered(), 1);
  EXPECT_THAT(Found(pool, "", Prompt({1, 2}), {QualityClass::kUnbounded}),
              SizeIs(1));
  // Who runs on them goes on, and adds nothing more.
  EXPECT_EQ(pool.leased(), 4);
  ASSERT_TRUE(pool.Grow(running, 5));
  EXPECT_FALSE(pool.Enter(running, 4, "", Prompt({5}), sparse));
  running = PageLease();
  EXPECT_EQ(pool.free(), 19);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

// Evicts `count` pages, and gives them back.
void Evict(PagePool& pool, int count) {
  PageLease lease;
  ASSERT_TRUE(pool.Grow(lease, pool.free() + count));
}

TEST(PrefixIndexTest,
     EvictsLeastRecentlyUsedFirstAndPagesBeforeThoseTheyStandOn) {
  PagePool pool(9, {.preceding_page_cost = 0});
  { const PageLease a = Fill(pool, "", Prompt({1, 2, 3})); }
  { const PageLease b = Fill(pool, "", Prompt({4, 5, 6})); }
  { const PageLease c = Fill(pool, "", Prompt({7, 8, 9})); }
  { const PageLease used = Fill(pool, "", Prompt({1, 2})); }
  EXPECT_EQ(pool.cached(), 9);
  const auto found = [&](const std::vector<int>& kinds) {
    return Found(pool, "", Prompt(kinds)).size();
  };
  Evict(pool, 1);  // the last page of the first: it was not used again
  EXPECT_EQ(found({1, 2, 3}), 2);
  Evict(pool, 3);
  EXPECT_EQ(found({4, 5, 6}), 0);
  EXPECT_EQ(found({7, 8, 9}), 3);
  Evict(pool, 2);
  EXPECT_EQ(found({7, 8, 9}), 1);
  EXPECT_EQ(found({1, 2, 3}), 2);
  EXPECT_EQ(pool.evicted(), 6);
}

TEST(PrefixIndexTest, DeepPagesOutliveShallowOnesThatWereUsedLater) {
  // Page 9 of a prompt costs ten times as much as the first.
  PagePool pool(20, {.preceding_page_cost = 1});
  const std::vector<TokenId> deep = Prompt({1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  { const PageLease lease = Fill(pool, "", deep); }
  for (int kind = 11; kind <= 20; ++kind) {
    const PageLease lease = Fill(pool, "", Prompt({kind}));
  }
  Evict(pool, 10);
  EXPECT_THAT(Found(pool, "", deep), SizeIs(10));
  // But not for ever: each page that goes lets what is left count for less.
  for (int kind = 21; kind <= 120; ++kind) {
    const PageLease lease = Fill(pool, "", Prompt({kind}));
    PageLease others;
    ASSERT_TRUE(pool.Grow(others, pool.free() + 1));
  }
  EXPECT_THAT(Found(pool, "", deep), IsEmpty());
}

TEST(PrefixIndexTest, LeasedPagesAreNotEvicted) {
  PagePool pool(4);
  const PageLease lease = Fill(pool, "", Prompt({1, 2}));
  PageLease rest;
  EXPECT_FALSE(pool.Grow(rest, 3));
  EXPECT_TRUE(pool.Grow(rest, 2));
  EXPECT_THAT(Found(pool, "", Prompt({1, 2})), SizeIs(2));
}

TEST(PageOriginTest, ClassesAreTheSmallestThatHoldADivergence) {
  const std::vector<std::pair<double, QualityClass>> rows = {
      {0, QualityClass::kExact},
      {1e-9, QualityClass::kHundredth},
      {0.01, QualityClass::kHundredth},
      {0.02, QualityClass::kThreeHundredths},
      {0.03, QualityClass::kThreeHundredths},
      {0.1, QualityClass::kTenth},
      {0.11, QualityClass::kUnbounded},
      {std::numeric_limits<double>::quiet_NaN(), QualityClass::kUnbounded}};
  for (const auto& [divergence, quality] : rows) {
    EXPECT_EQ(QualityClassOf(divergence), quality) << divergence;
  }
}

}  // namespace
}  // namespace sparseserve
