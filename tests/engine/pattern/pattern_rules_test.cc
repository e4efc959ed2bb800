// Rules of systems that no module at hand computes, against sets and numbers
// found by hand.

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/content_rules.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/etc_rule.h"
#include "tests/testing/pooled_rules.h"
#include "tests/testing/static_rules.h"

namespace sparseserve::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

std::vector<int64_t> KeysOf(const VisibleKeys& visible) {
  std::vector<int64_t> keys;
  for (const VisibleKey& seen : visible) keys.push_back(seen.key);
  return keys;
}

Rows Column(const std::vector<double>& values) {
  return {static_cast<int64_t>(values.size()), 1, values};
}

TEST(PatternRulesTest, CountsStandForRepeatedKeys) {
  // Scores ln 2 and 0: weights 2 and 1, the second three times.
  const Rows keys = Column({std::log(2.0), 0});
  const Rows values = Column({10, 1});
  const double query[] = {1};
  const AttendedRow row =
      AttendRow(query, keys, values, 1, {{.key = 0}, {.key = 1, .count = 3}});
  EXPECT_DOUBLE_EQ(row.output[0], 23.0 / 5);
  EXPECT_DOUBLE_EQ(row.lse, std::log(5.0));
}

TEST(PatternRulesTest, RowsWithoutKeysAreZeroAndCountForNothing) {
  const Rows keys = Column({1});
  const double query[] = {1};
  const AttendedRow none = AttendRow(query, keys, keys, 1, {});
  EXPECT_THAT(none.output, ElementsAre(0));
  EXPECT_EQ(none.lse, -HUGE_VAL);
  const AttendedRow one = AttendRow(query, keys, keys, 1, {{.key = 0}});
  EXPECT_DOUBLE_EQ(MergeByLse({none, one}).output[0], 1);
  EXPECT_EQ(MergeByLse({none, none}).lse, -HUGE_VAL);
}

TEST(PatternRulesTest, PatternsOfPositionsShowWhatTheirPapersSay) {
  const auto keys = [](const PatternSpec& pattern, int64_t position) {
    return KeysOf(StaticRuleKeys(pattern, {position, false, 300}));
  };
  EXPECT_THAT(keys(DensePattern(), 2), ElementsAre(0, 1, 2));
  EXPECT_THAT(keys(SlidingWindowPattern{2}, 5), ElementsAre(4, 5));
  EXPECT_THAT(keys(SinkWindowPattern{2, 3}, 9), ElementsAre(0, 1, 7, 8, 9));
  EXPECT_THAT(keys(StridedPattern{4}, 13),
              ElementsAre(1, 5, 9, 10, 11, 12, 13));
  EXPECT_THAT(keys(StridedPattern{4, FactorizedPart::kSummary}, 13),
              ElementsAre(1, 5, 9, 13));
  EXPECT_THAT(keys(FixedPattern{5, 2}, 12),
              ElementsAre(3, 4, 8, 9, 10, 11, 12));
  EXPECT_THAT(keys(FixedPattern{5, 1, 1}, 12), ElementsAre(3, 8, 10, 11, 12));
  EXPECT_THAT(keys(FixedPattern{5, 1, 0, FactorizedPart::kSummary}, 12),
              ElementsAre(4, 9, 12));
  EXPECT_THAT(keys(DilatedWindowPattern{3, 3}, 10), ElementsAre(4, 7, 10));
  EXPECT_THAT(keys(ChunkedLocalPattern{4}, 10), ElementsAre(8, 9, 10));

  // 300 tokens are blocks 0 ... 4, the last two of which begin at 192.
  const TriShapePattern tri_shape = {1, 2, 2};
  EXPECT_THAT(keys(tri_shape, 191), ElementsAre(0, 190, 191));
  EXPECT_EQ(keys(tri_shape, 192).size(), 193u);
  EXPECT_EQ(StaticRuleKeys(tri_shape, {191, true, 300}).size(), 192u);
}

TEST(PatternRulesTest, LongformerDilates) {
  LongformerRule rule{.one_sided_window = 2,
                      .dilation = 3,
                      .global = std::vector<bool>(12),
                      .real = std::vector<bool>(12, true)};
  rule.global[9] = true;
  rule.real[11] = false;
  // Steps of 3 to either side: -2 is outside, 10 and 8 no multiple apart.
  EXPECT_THAT(KeysOf(rule.Keys(4)), ElementsAre(1, 4, 7, 9, 10));
  EXPECT_THAT(KeysOf(rule.Keys(8)), ElementsAre(2, 5, 8, 9));
  rule.causal = true;
  EXPECT_THAT(KeysOf(rule.Keys(8)), ElementsAre(2, 5, 8));
  EXPECT_THAT(KeysOf(rule.Keys(9)), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(PatternRulesTest, BigBirdEtcPutsGlobalTokensBefore) {
  // Seven blocks of two after three global tokens; block 3 draws block 5.
  const BigBirdEtcRule rule{.extra = 3,
                            .rest = {.block = 2,
                                     .random_blocks = {{3}, {4}, {5}, {1}, {1}},
                                     .real = std::vector<bool>(14, true)}};
  // Token 9 is number 6 after the global ones, in block 3: it sees blocks 0, 2,
  // 3, 4, 5 and 6.
  EXPECT_THAT(KeysOf(rule.Keys(9)),
              ElementsAre(0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16));
  EXPECT_EQ(rule.Keys(2).size(), 17u);
}

TEST(PatternRulesTest, BigBirdCountsDrawnNeighboursAgain) {
  const BigBirdRule rule{.block = 1,
                         .random_blocks = {{4}, {0, 0}, {1}, {2}},
                         .real = std::vector<bool>(6, true)};
  std::vector<double> counts(6);
  for (const VisibleKey& seen : rule.Keys(2)) counts[seen.key] = seen.count;
  EXPECT_THAT(counts, ElementsAre(3, 1, 1, 1, 0, 1));
}

TEST(PatternRulesTest, AxialFollowsOneAxisOfThree) {
  // Place (1, 1, 3) of a grid of 2 x 3 x 4 is number 19.
  AxialRule rule{.shape = {2, 3, 4}, .axis = 1};
  EXPECT_THAT(KeysOf(rule.Keys(19)), ElementsAre(15, 19, 23));
  rule.causal = true;
  EXPECT_THAT(KeysOf(rule.Keys(19)), ElementsAre(15, 19));
  rule.axis = 0;
  EXPECT_THAT(KeysOf(rule.Keys(19)), ElementsAre(7, 19));
  rule.axis = 2;
  EXPECT_THAT(KeysOf(rule.Keys(18)), ElementsAre(16, 17, 18));
}

TEST(PatternRulesTest, SwinsShiftedCornersMeetButDoNotSee) {
  const SwinRule rule{.height = 4, .width = 4, .window = 2, .shift = 1};
  // (1, 1) rolls to (0, 0) and shares its window with its old neighbours.
  for (const VisibleKey& seen : rule.Keys(5)) EXPECT_EQ(seen.bias, 0);
  EXPECT_THAT(KeysOf(rule.Keys(5)), ElementsAre(5, 6, 9, 10));
  // The four corners roll into one window.
  EXPECT_THAT(KeysOf(rule.Keys(0)), ElementsAre(0, 3, 12, 15));
  for (const VisibleKey& seen : rule.Keys(0)) {
    EXPECT_EQ(seen.bias, seen.key == 0 ? 0 : SwinRule::kOtherRegion);
  }
}

TEST(PatternRulesTest, TokenGraphsJoinArcsAndNeighbours) {
  const TokenGraphRule rule{
      .tokens = 9, .arcs = {{0, 6}, {6, 3}, {8, 0}}, .degree = 1};
  EXPECT_THAT(KeysOf(rule.Keys(6)), ElementsAre(0, 3, 5, 6, 7));
  EXPECT_THAT(KeysOf(rule.Keys(0)), ElementsAre(0, 1, 6, 8));
  EXPECT_THAT(KeysOf(rule.Keys(3)), ElementsAre(2, 3, 4, 6));
}

TEST(PatternRulesTest, ReformerLooksBackAcrossRounds) {
  // Round 0 sorts to 1 3 0 2, round 1 to 0 1 2 3; chunks of 2: {1 3} {0 2}
  // {0 1} {2 3}.
  const ReformerLshRule rule{.chunk = 2,
                             .causal = false,
                             .buckets = {{1, 0, 1, 0}, {2, 2, 3, 3}},
                             .real = std::vector<bool>(4, true)};
  EXPECT_THAT(rule.Order(), ElementsAre(1, 3, 0, 2, 4, 5, 6, 7));
  // Its first chunk looks back to the last one of round 1.
  EXPECT_THAT(KeysOf(rule.Keys(0, 1)), ElementsAre(2, 3));
  EXPECT_EQ(rule.Keys(0, 1)[1].count, 2);
  // The first of round 1 to the last one of round 0; itself is left out.
  EXPECT_THAT(KeysOf(rule.Keys(1, 0)), ElementsAre(1, 2));
  ReformerLshRule causal = rule;
  causal.causal = true;
  EXPECT_THAT(KeysOf(causal.Keys(1, 0)), ElementsAre(0));
  EXPECT_EQ(causal.Keys(1, 0)[0].count, 2);
}

TEST(PatternRulesTest, RoutingLeavesSomeTokensOutAndTakesSomeTwice) {
  const RoutingRule rule{
      .capacity = 2,
      .causal = true,
      .query_scores = {{0.1, 0.9, 0.8, 0.2}, {0.3, 0.7, 0.1, 0.7}},
      .key_scores = {{0.5, 0.1, 0.5, 0.5}, {0.1, 0.2, 0.9, 0.8}}};
  EXPECT_THAT(rule.ClustersOf(0), IsEmpty());
  EXPECT_THAT(rule.ClustersOf(1), ElementsAre(0, 1));
  EXPECT_THAT(rule.ClustersOf(2), ElementsAre(0));
  EXPECT_THAT(rule.ClustersOf(3), ElementsAre(1));
  // Of the three keys that tie for two places the first two.
  EXPECT_THAT(KeysOf(rule.Keys(0, 2)), ElementsAre(0, 2));
  EXPECT_THAT(KeysOf(rule.Keys(0, 1)), ElementsAre(0));
  // Both keys of the cluster lie after the query.
  EXPECT_THAT(KeysOf(rule.Keys(1, 1)), IsEmpty());
}

TEST(PatternRulesTest, MobaCountsTheOwnBlockAmongTheBest) {
  const MobaRule rule{.block = 2, .most_blocks = 2};
  // Means 3, 5, 1, and of the query's own block, which is not asked.
  const Rows keys = Column({6, 0, 4, 6, 1, 1, -9, 100});
  const double likes_large[] = {1};
  const double likes_small[] = {-1};
  EXPECT_THAT(KeysOf(rule.Keys(6, likes_large, keys)), ElementsAre(2, 3, 6));
  EXPECT_THAT(KeysOf(rule.Keys(7, likes_small, keys)), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(KeysOf(rule.Keys(1, likes_small, keys)), ElementsAre(0, 1));
}

TEST(PatternRulesTest, NsaSelectsByWhatBranchesShare) {
  const NsaRule rule{.compressed_tokens = 4,
                     .stride = 2,
                     .block = 4,
                     .most_blocks = 4,
                     .window = 3};
  // Compressed key 9 ends with token 21, key 10 with token 23.
  EXPECT_EQ(rule.Compressed(22).size(), 10u);
  EXPECT_EQ(rule.Compressed(2).size(), 0u);
  EXPECT_THAT(KeysOf(rule.Window(22)), ElementsAre(20, 21, 22));
  // Row 22 lies in block 5; 0, 4 and 5 are forced, one of 1, 2, 3 is free.
  // Key 3 lies half in block 1, half in block 2; key 4 wholly in block 2.
  std::vector<std::vector<double>> weights(2, std::vector<double>(10));
  weights[0][3] = 0.5;  // 0.5 for blocks 1 and 2
  weights[1][2] = 0.1;  // 0.2 for block 1
  EXPECT_THAT(rule.Blocks(22, weights), ElementsAre(0, 1, 4, 5));
  weights[1][4] = 0.15;  // 0.3 for block 2
  EXPECT_THAT(rule.Blocks(22, weights), ElementsAre(0, 2, 4, 5));
  EXPECT_THAT(KeysOf(rule.Selected(22, {0, 5})),
              ElementsAre(0, 1, 2, 3, 20, 21, 22));
}

TEST(PatternRulesTest, HTransformerWeighsTokensAlikeWhenScoresAre) {
  const HTransformerRule rule{.block = 2};
  const Rows zero = Column(std::vector<double>(16));
  std::vector<double> powers;
  for (int i = 0; i < 16; ++i) powers.push_back(std::ldexp(1, i));
  for (int64_t row = 0; row < 16; ++row) {
    const AttendedRow attended =
        rule.Attend(row, zero, zero, Column(powers), 1);
    EXPECT_NEAR(attended.output[0], 65535.0 / 16, 1e-10);
    EXPECT_NEAR(attended.lse, std::log(16.0), 1e-14);
  }
  const HTransformerRule causal{.block = 2, .causal = true};
  // Row 9 is the second token of its block and has no sibling to its left but
  // that of its largest ancestor: tokens 0 to 7 by means, 8 and 9.
  EXPECT_NEAR(causal.Attend(9, zero, zero, Column(powers), 1).output[0],
              1023.0 / 10, 1e-12);
}

TEST(PatternRulesTest, HTransformerCountsRealTokensAlone) {
  // Seven tokens in blocks of one, of which four are real: the means of level
  // 1 are of (0, 1), (2), (4) and none.
  HTransformerRule rule{.block = 1};
  rule.real = {true, true, true, false, true, false, false};
  const Rows zero = Column(std::vector<double>(7));
  const Rows powers = Column({1, 2, 4, 8, 16, 32, 64});
  for (const int64_t row : {0, 1, 2, 4}) {
    const AttendedRow attended = rule.Attend(row, zero, zero, powers, 1);
    EXPECT_NEAR(attended.output[0], (1 + 2 + 4 + 16) / 4.0, 1e-14);
    EXPECT_NEAR(attended.lse, std::log(4.0), 1e-14);
  }
}

TEST(PatternRulesTest, HTransformerIsDenseWhereMeansLoseNothing) {
  // Keys and queries that are equal in each group of four, blocks of two.
  std::vector<double> queries, keys, values;
  for (int i = 0; i < 16; ++i) {
    queries.push_back(0.5 + i / 4);
    keys.push_back(std::sin(1.0 + i / 4));
    values.push_back(std::cos(3.0 * i));
  }
  const HTransformerRule rule{.block = 2};
  VisibleKeys all;
  for (int64_t key = 0; key < 16; ++key) all.push_back({.key = key});
  for (int64_t row = 0; row < 16; ++row) {
    const AttendedRow dense =
        AttendRow(Column(queries)[row], Column(keys), Column(values), 1, all);
    const AttendedRow found =
        rule.Attend(row, Column(queries), Column(keys), Column(values), 1);
    EXPECT_NEAR(found.output[0], dense.output[0], 1e-14);
    EXPECT_NEAR(found.lse, dense.lse, 1e-14);
  }
}

TEST(PatternRulesTest, EtcLabelsDistancesAndMasksSegments) {
  const EtcRule rule{.radius = 3,
                     .max_distance = 2,
                     .segments = {7, 7, 7, 7, 8, 8},
                     .global_tokens = 4,
                     .long_to_global = {{}, {5, -1, 6, -1}},
                     .global_to_long = {{-1, 9, 9, -1, -1, 5}}};
  using L = LabelledKey;
  EXPECT_THAT(rule.LongToLong(0),
              ElementsAreArray<L>({{0, 0}, {1, 1}, {2, 2}, {3, 2}}));
  EXPECT_THAT(rule.LongToLong(3),
              ElementsAreArray<L>({{0, 4}, {1, 4}, {2, 3}, {3, 0}}));
  EXPECT_THAT(rule.LongToLong(5), ElementsAreArray<L>({{4, 3}, {5, 0}}));
  EXPECT_THAT(rule.LongToGlobal(1), ElementsAreArray<L>({{0, 5}, {2, 6}}));
  EXPECT_THAT(rule.GlobalToGlobal(1),
              ElementsAreArray<L>({{0, 3}, {1, 0}, {2, 1}, {3, 2}}));
  EXPECT_THAT(rule.GlobalToLong(0),
              ElementsAreArray<L>({{1, 9}, {2, 9}, {5, 5}}));
}

TEST(PatternRulesTest, EtcSharesOneSoftmaxAndScalesLabels) {
  // Head size 4, so that all is halved. Long keys score 2 ln 2 * (1, 0), the
  // global key 0 with label 1, whose key adds 2 ln 3 and bias 2 ln 2.
  const Rows long_keys{2, 4, {2 * std::log(2.0), 0, 0, 0, 0, 0, 0, 0}};
  const Rows long_values = Column({1, 10});
  const Rows global_keys{1, 4, {0, 0, 0, 0}};
  const Rows global_values = Column({100});
  EtcLabels labels;
  labels.keys = {2, 4, {0, 0, 0, 0, 2 * std::log(3.0), 0, 0, 0}};
  labels.biases = {0, 2 * std::log(2.0)};
  const double query[] = {1, 0, 0, 0};
  const AttendedRow row =
      AttendEtcRow(query,
                   {{long_keys, long_values, {{0, 0}, {1, 0}}},
                    {global_keys, global_values, {{0, 1}}}},
                   labels);
  // Weights 2, 1 and 6.
  EXPECT_NEAR(row.output[0], (2.0 + 10 + 600) / 9, 1e-12);
  EXPECT_NEAR(row.lse, std::log(9.0), 1e-15);
}

}  // namespace
}  // namespace sparseserve::testing
