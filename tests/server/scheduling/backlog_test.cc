#include "server/scheduling/backlog.h"

#include <map>
#include <random>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

Rank RankOf(int level, SequenceId id) { return {.level = level, .id = id}; }

Backlog Rows(double rows, double output) {
  return {
      .requests = 1, .work = {.prompt_rows = rows}, .output_tokens = output};
}

TEST(BacklogTreeTest, SumsWhatGoesBefore) {
  BacklogTree tree;
  tree.Add(RankOf(0, 1), Rows(10, 1));
  tree.Add(RankOf(5, 2), Rows(20, 2));
  tree.Add(RankOf(0, 3), Rows(40, 4));
  EXPECT_EQ(tree.Before(RankOf(9, 9)).requests, 0);
  EXPECT_EQ(tree.Before(RankOf(0, 1)).work.prompt_rows, 20);
  EXPECT_EQ(tree.Before(RankOf(0, 2)).work.prompt_rows, 30);
  const Backlog all = tree.Before(RankOf(-1, 0));
  EXPECT_EQ(all.requests, 3);
  EXPECT_EQ(all.work.prompt_rows, 70);
  EXPECT_EQ(all.output_tokens, 7);
  tree.Remove(RankOf(5, 2));
  EXPECT_EQ(tree.Before(RankOf(-1, 0)).work.prompt_rows, 50);
}

TEST(BacklogTreeTest, HoldsUnderRandomChanges) {
  std::mt19937 random(1);
  const auto uniform = [&random](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random);
  };
  BacklogTree tree;
  std::map<Rank, Backlog> expected;
  for (int change = 0; change < 3000; ++change) {
    if (expected.empty() || uniform(0, 2) > 0) {
      Rank rank = RankOf(uniform(-3, 3), change);
      rank.is_late = uniform(0, 1) == 1;
      rank.deadline = absl::FromUnixSeconds(uniform(0, 5));
      expected[rank] = Rows(uniform(1, 100), uniform(1, 9));
      tree.Add(rank, expected[rank]);
    } else {
      const auto any = std::next(
          expected.begin(), uniform(0, static_cast<int>(expected.size()) - 1));
      tree.Remove(any->first);
      expected.erase(any);
    }
    Rank rank = RankOf(uniform(-3, 3), uniform(0, change));
    rank.is_late = uniform(0, 1) == 1;
    rank.deadline = absl::FromUnixSeconds(uniform(0, 5));
    Backlog before;
    for (const auto& [key, backlog] : expected) {
      if (key < rank) before += backlog;
    }
    const Backlog sum = tree.Before(rank);
    ASSERT_EQ(sum.requests, before.requests);
    ASSERT_EQ(sum.work.prompt_rows, before.work.prompt_rows);
    ASSERT_EQ(sum.output_tokens, before.output_tokens);
  }
}

}  // namespace
}  // namespace sparseserve
