#include "engine/tokenizer/pair_merger.h"

#include <map>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Symbols = std::vector<TokenId>;

Symbols Merge(const PairMerger& merger, Symbols symbols) {
  PairMerger::Scratch scratch;
  merger.Apply(symbols, scratch);
  return symbols;
}

TEST(PairMergerTest, TakesTheRuleThatWasAddedFirst) {
  PairMerger merger;
  ASSERT_TRUE(merger.Add(2, 3, 23));
  ASSERT_TRUE(merger.Add(1, 2, 12));
  EXPECT_EQ(Merge(merger, {1, 2, 3}), (Symbols{1, 23}));
  EXPECT_EQ(Merge(merger, {1, 2, 2}), (Symbols{12, 2}));
}

TEST(PairMergerTest, TakesTheLeftmostOfEqualPairs) {
  PairMerger merger;
  ASSERT_TRUE(merger.Add(1, 1, 11));
  EXPECT_EQ(Merge(merger, {1, 1, 1}), (Symbols{11, 1}));
  EXPECT_EQ(Merge(merger, {1, 1, 1, 1, 1}), (Symbols{11, 11, 1}));
}

TEST(PairMergerTest, TakesTheLeftmostOfRulesThatShareARank) {
  PairMerger merger;
  ASSERT_TRUE(merger.Add(2, 3, 23, 7));
  ASSERT_TRUE(merger.Add(1, 2, 12, 7));
  ASSERT_TRUE(merger.Add(3, 4, 34, 5));
  EXPECT_EQ(Merge(merger, {1, 2, 3}), (Symbols{12, 3}));
  EXPECT_EQ(Merge(merger, {2, 3, 4}), (Symbols{2, 34}));
  EXPECT_FALSE(merger.Add(1, 2, 99, 1));
}

TEST(PairMergerTest, MergesResultsFurther) {
  PairMerger merger;
  ASSERT_TRUE(merger.Add(1, 2, 12));
  ASSERT_TRUE(merger.Add(12, 12, 1212));
  ASSERT_TRUE(merger.Add(1212, 3, 12123));
  EXPECT_EQ(Merge(merger, {1, 2, 1, 2, 3}), Symbols{12123});
}

TEST(PairMergerTest, LeavesShortAndUnknownWordsAlone) {
  PairMerger merger;
  ASSERT_TRUE(merger.Add(1, 2, 12));
  EXPECT_EQ(Merge(merger, {}), Symbols{});
  EXPECT_EQ(Merge(merger, {1}), Symbols{1});
  EXPECT_EQ(Merge(merger, {2, 1}), (Symbols{2, 1}));
}

TEST(PairMergerTest, RefusesASecondRuleForAPair) {
  PairMerger merger;
  EXPECT_TRUE(merger.Add(1, 2, 12));
  EXPECT_FALSE(merger.Add(1, 2, 99));
  EXPECT_EQ(Merge(merger, {1, 2}), Symbols{12});
}

// The rule taken literally: find the best pair, merge it, begin again.
Symbols MergeNaively(
    const std::map<std::pair<TokenId, TokenId>, std::pair<int, TokenId>>& rules,
    Symbols symbols) {
  while (true) {
    size_t best = 0;
    const std::pair<int, TokenId>* best_rule = nullptr;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto rule = rules.find({symbols[i], symbols[i + 1]});
      if (rule == rules.end()) continue;
      if (best_rule == nullptr || rule->second.first < best_rule->first) {
        best = i;
        best_rule = &rule->second;
      }
    }
    if (best_rule == nullptr) return symbols;
    symbols[best] = best_rule->second;
    symbols.erase(symbols.begin() + best + 1);
  }
}

TEST(PairMergerTest, AgreesWithTheRuleTakenLiterally) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 500; ++round) {
    PairMerger merger;
    std::map<std::pair<TokenId, TokenId>, std::pair<int, TokenId>> rules;
    TokenId tokens = 3;
    for (int rank = 0; rank < 12; ++rank) {
      const TokenId left = random() % tokens;
      const TokenId right = random() % tokens;
      if (!merger.Add(left, right, tokens)) continue;
      rules[{left, right}] = {rank, tokens++};
    }
    Symbols symbols;
    for (int i = random() % 40; i > 0; --i) symbols.push_back(random() % 3);
    EXPECT_EQ(Merge(merger, symbols), MergeNaively(rules, symbols));
  }
}

TEST(PairMergerTest, MergesAMillionSymbolsWithThreeHeapPushesEachAtMost) {
  constexpr int64_t kCount = 1 << 20;
  // Powers of two of one symbol: every rank merges the whole word once.
  PairMerger merger;
  for (TokenId token = 0; token < 20; ++token) {
    ASSERT_TRUE(merger.Add(token, token, token + 1));
  }
  Symbols symbols(kCount, 0);
  PairMerger::Scratch scratch;
  const int64_t pushes = merger.Apply(symbols, scratch);
  EXPECT_EQ(symbols, Symbols{20});
  EXPECT_GE(pushes, kCount - 1);
  EXPECT_LT(pushes, 3 * kCount);
}

TEST(PairMergerTest, MergesAMillionSymbolsFromTheLeftWithAsFewPushes) {
  constexpr int64_t kCount = 1 << 20;
  // A token that eats its neighbour over and over: the worst for a list that
  // is moved at each merge.
  PairMerger merger;
  ASSERT_TRUE(merger.Add(1, 0, 1));
  Symbols symbols(kCount, 0);
  symbols[0] = 1;
  PairMerger::Scratch scratch;
  const int64_t pushes = merger.Apply(symbols, scratch);
  EXPECT_EQ(symbols, Symbols{1});
  EXPECT_LT(pushes, 3 * kCount);
}

}  // namespace
}  // namespace sparseserve
