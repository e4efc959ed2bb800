#include "engine/pattern/routing_passes.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/content_rules.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pass_keys.h"

namespace sparseserve {
namespace {

using testing::Difference;
using ::testing::HasSubstr;
using testing::KeysOf;
using testing::RoutingRule;
using testing::SlotKeys;

using Scores = std::vector<std::vector<double>>;

Scores Draw(int clusters, int tokens, std::mt19937& random) {
  std::normal_distribution<double> normal;
  Scores scores(clusters, std::vector<double>(tokens));
  for (auto& of_cluster : scores) {
    for (double& score : of_cluster) score = normal(random);
  }
  return scores;
}

using ClustersOfRows = std::vector<std::vector<int64_t>>;

// Of every row, none of padding.
ClustersOfRows AllClusters(const RoutingRule& rule) {
  ClustersOfRows clusters(rule.real.size());
  for (size_t row = 0; row < clusters.size(); ++row) {
    if (rule.real[row]) {
      clusters[row] = rule.ClustersOf(static_cast<int64_t>(row));
    }
  }
  return clusters;
}

// What clusters take by the rule: the queries that have the cluster, and the
// keys that its last row sees.
void Take(const RoutingRule& rule, const ClustersOfRows& clusters_of,
          RoutingClusters& clusters) {
  RoutingRule all = rule;
  all.causal = false;
  const auto count = static_cast<int64_t>(rule.real.size());
  for (int64_t cluster = 0; cluster < clusters.clusters; ++cluster) {
    for (int64_t row = 0; row < count; ++row) {
      const std::vector<int64_t>& of_row = clusters_of[row];
      if (std::find(of_row.begin(), of_row.end(), cluster) != of_row.end()) {
        clusters.queries.push_back(static_cast<int32_t>(row));
      }
    }
    for (const auto& seen : all.Keys(cluster, count - 1)) {
      clusters.keys.push_back(static_cast<int32_t>(seen.key));
    }
  }
}

TEST(RoutingPassesTest, ShowWhatTheRuleShowsInEveryCluster) {
  testing::OracleReport report("routing", "sets");
  std::mt19937 random(2);
  for (const int tokens : {1, 5, 64, 65, 150}) {
    for (const bool is_causal : {true, false}) {
      for (const auto& [clusters, capacity] :
           {std::pair(1, tokens), std::pair(3, 1 + tokens / 5),
            std::pair(9, 1 + tokens / 2)}) {
        std::vector<bool> real(tokens, true);
        for (int i = 0; i < tokens / 6; ++i) real[i] = false;
        for (int i = 0; i < tokens / 9; ++i) real[tokens - 1 - i] = false;
        const auto available =
            static_cast<int32_t>(std::count(real.begin(), real.end(), true));
        RoutingClusters given = {.heads = 2,
                                 .clusters = clusters,
                                 .tokens = tokens,
                                 .taken = std::min(capacity, available)};
        RoutingRule rules[2];
        ClustersOfRows clusters_of[2];
        for (int head = 0; head < 2; ++head) {
          rules[head] = {.capacity = capacity,
                         .causal = is_causal,
                         .query_scores = Draw(clusters, tokens, random),
                         .key_scores = Draw(clusters, tokens, random),
                         .real = real};
          clusters_of[head] = AllClusters(rules[head]);
          Take(rules[head], clusters_of[head], given);
        }
        const AttentionPasses passes =
            RoutingPasses({capacity, is_causal}, given).value();
        ASSERT_EQ(passes.Validate(), absl::OkStatus());
        EXPECT_EQ(passes.combiner, PassCombiner::kMean);
        report.AddCase();
        for (int32_t head = 0; head < 2; ++head) {
          // Slots come cluster by cluster.
          report.AddRows(tokens, 0);
          std::vector<size_t> next(tokens);
          for (const SlotKeys& slot : KeysOf(passes, head)) {
            const auto& of_row = clusters_of[head][slot.token];
            ASSERT_LT(next[slot.token], of_row.size());
            EXPECT_EQ(Difference(slot.keys,
                                 rules[head].Keys(of_row[next[slot.token]++],
                                                  slot.token)),
                      "")
                << tokens << " tokens, head " << head << " row " << slot.token;
          }
          for (int row = 0; row < tokens; ++row) {
            EXPECT_EQ(next[row], clusters_of[head][row].size());
          }
        }
      }
    }
  }
}

TEST(RoutingPassesTest, RefuseWhatDoesNotFit) {
  const auto error = [](const RoutingPattern& pattern,
                        const RoutingClusters& clusters) {
    return std::string(RoutingPasses(pattern, clusters).status().message());
  };
  const RoutingPattern pattern = {.capacity = 2};
  const RoutingClusters given = {.heads = 1,
                                 .clusters = 2,
                                 .tokens = 5,
                                 .taken = 2,
                                 .queries = {0, 4, 1, 2},
                                 .keys = {3, 4, 0, 1}};
  EXPECT_EQ(error(pattern, given), "");
  EXPECT_EQ(error({.capacity = 1}, given),
            "routing: 2 tokens taken by each cluster; allowed: 0 to 1");
  RoutingClusters wrong = given;
  wrong.queries[3] = 1;
  EXPECT_EQ(error(pattern, wrong),
            "routing: cluster 1 of head 0 took token 1 of the queries; "
            "allowed: 2 to 4, ascending");
  wrong = given;
  wrong.keys[2] = -1;
  EXPECT_THAT(error(pattern, wrong),
              HasSubstr("took token -1 of the keys; allowed: 0 to 4"));
  wrong = given;
  wrong.keys[1] = 5;
  EXPECT_THAT(error(pattern, wrong), HasSubstr("token 5 of the keys"));
  wrong = given;
  wrong.keys.pop_back();
  EXPECT_EQ(error(pattern, wrong), "routing: 3 keys, not 4");
  wrong = given;
  wrong.clusters = 0;
  EXPECT_THAT(error(pattern, wrong), HasSubstr("0 clusters"));
  wrong = given;
  wrong.tokens = 0;
  EXPECT_THAT(error(pattern, wrong), HasSubstr("a sequence of 0 tokens"));
  EXPECT_TRUE(RoutingPasses(pattern, {.heads = 1, .clusters = 2, .tokens = 5})
                  .value()
                  .passes.empty());
}

}  // namespace
}  // namespace sparseserve
