#include "engine/layout/key_predicate.h"

#include <random>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

std::vector<int> KeysOf(const KeyPredicate& predicate, int query) {
  std::vector<int> keys;
  for (int key = 0; key <= query + 70; ++key) {
    if (predicate.Sees(query, key)) keys.push_back(key);
  }
  return keys;
}

TEST(KeyPredicateTest, RulesShowWhatTheirFormulasSay) {
  EXPECT_THAT(KeysOf({}, 3), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(KeysOf({SinkWindowKeys{2, 3}}, 9), ElementsAre(0, 1, 7, 8, 9));
  EXPECT_THAT(KeysOf({StridedKeys{4}}, 13),
              ElementsAre(1, 5, 9, 10, 11, 12, 13));
  // Periods of 5 with columns 3 and 4; 12 is in the period from 10 on.
  EXPECT_THAT(KeysOf({ColumnKeys{5, 3, 2}}, 12),
              ElementsAre(3, 4, 8, 9, 10, 11, 12));
  EXPECT_THAT(KeysOf({ColumnKeys{5, 3, 1, false}}, 12), ElementsAre(3, 8, 12));
  EXPECT_THAT(KeysOf({DilatedKeys{3, 3}}, 10), ElementsAre(4, 7, 10));
  EXPECT_THAT(KeysOf({ChunkKeys{4}}, 10), ElementsAre(8, 9, 10));
  EXPECT_THAT(KeysOf({NoKeys()}, 10), ElementsAre());
}

TEST(KeyPredicateTest, WindowNarrowsEveryRule) {
  EXPECT_THAT(KeysOf({AllKeys(), 2}, 9), ElementsAre(8, 9));
  EXPECT_THAT(KeysOf({SinkWindowKeys{5, 3}, 6}, 9), ElementsAre(4, 7, 8, 9));
  EXPECT_THAT(KeysOf({DilatedKeys{3, 3}, 4}, 10), ElementsAre(7, 10));
}

TEST(KeyPredicateTest, NarrowerOfTwoWindowsCounts) {
  const KeyPredicate none = {ChunkKeys{9}};
  const KeyPredicate narrow = {ChunkKeys{9}, 5};
  EXPECT_EQ(none.Within(0), none);
  EXPECT_EQ(none.Within(5), narrow);
  EXPECT_EQ(narrow.Within(0), narrow);
  EXPECT_EQ(narrow.Within(7), narrow);
  EXPECT_EQ(narrow.Within(2).window_tokens, 2);
}

std::vector<KeyRule> Rules() {
  std::vector<KeyRule> rules = {AllKeys(), NoKeys()};
  for (const int n : {1, 2, 3, 5, 31, 32, 63, 64, 65, 100, 128, 200, 1 << 30}) {
    rules.push_back(StridedKeys{n});
    rules.push_back(ChunkKeys{n});
    rules.push_back(DilatedKeys{n, 3});
    rules.push_back(DilatedKeys{3, n});
    for (const int columns : {1, 2, n / 2, n}) {
      if (columns < 1 || columns > n) continue;
      rules.push_back(SinkWindowKeys{columns, n});
      for (const bool sees_period : {false, true}) {
        rules.push_back(ColumnKeys{n, n - columns, columns, sees_period});
        rules.push_back(ColumnKeys{n, (n - columns) / 2, columns, sees_period});
      }
    }
  }
  return rules;
}

TEST(KeyPredicateTest, BitsAreTheDefinitionOf64Keys) {
  std::mt19937 random(1);
  for (const KeyRule& rule : Rules()) {
    for (const int window : {0, 1, 50, 130}) {
      const KeyPredicate predicate = {rule, window};
      for (int draw = 0; draw < 40; ++draw) {
        const int query = static_cast<int>(random() % 700);
        const int first_key = static_cast<int>(random() % (query + 80));
        const uint64_t bits = predicate.SeenBits(query, first_key);
        for (int k = 0; k < 64; ++k) {
          ASSERT_EQ((bits >> k & 1) != 0, predicate.Sees(query, first_key + k))
              << "rule " << rule.index() << ", window " << window << ", query "
              << query << ", key " << first_key + k;
        }
      }
    }
  }
}

TEST(KeyPredicateTest, EveryQuerySeesItsOwnKeyAndNoLaterOne) {
  for (const KeyRule& rule : Rules()) {
    if (std::holds_alternative<NoKeys>(rule)) continue;
    const KeyPredicate predicate = {rule, 1};
    for (const int query : {0, 1, 63, 64, 199}) {
      EXPECT_THAT(KeysOf(predicate, query), ElementsAre(query));
    }
  }
}

TEST(KeyPredicateTest, IntervalsAreThoseOfCausalityWindowsAndChunks) {
  int intervals = 0;
  for (const KeyRule& rule : Rules()) {
    for (const int window : {0, 70}) {
      const KeyPredicate predicate = {rule, window};
      for (const int query : {0, 10, 300}) {
        const auto first = predicate.FirstOfInterval(query);
        if (!first.has_value()) continue;
        ++intervals;
        for (int key = 0; key <= query; ++key) {
          ASSERT_EQ(predicate.Sees(query, key), key >= *first);
        }
      }
    }
  }
  EXPECT_EQ(intervals, (1 + 13) * 2 * 3);
  EXPECT_TRUE(KeyPredicate().IsCausality());
  EXPECT_FALSE(KeyPredicate{.window_tokens = 9}.IsCausality());
  EXPECT_FALSE(KeyPredicate{ChunkKeys{9}}.IsCausality());
}

}  // namespace
}  // namespace sparseserve
