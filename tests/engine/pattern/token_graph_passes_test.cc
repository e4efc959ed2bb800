#include "engine/pattern/token_graph_passes.h"

#include <sys/resource.h>

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pass_keys.h"

namespace sparseserve {
namespace {

using testing::DifferenceFromRule;
using ::testing::HasSubstr;
using testing::TokenGraphRule;

using Arcs = std::vector<TokenArc>;

// Every head sees what the rule of its arcs and degree says.
void ExpectRule(const TokenGraphPattern& pattern, const TokenGraph& graph,
                testing::OracleReport& report) {
  const AttentionPasses passes = TokenGraphPasses(pattern, graph).value();
  ASSERT_EQ(passes.Validate(), absl::OkStatus());
  report.AddCase();
  for (int32_t head = 0; head < graph.heads; ++head) {
    report.AddRows(static_cast<int64_t>(graph.is_real.size()), 0);
    TokenGraphRule rule;
    rule.tokens = static_cast<int64_t>(graph.is_real.size());
    rule.real = graph.is_real;
    if (!pattern.degrees.empty()) rule.degree = pattern.degrees[head];
    if (!graph.arcs.empty()) {
      for (const TokenArc& arc :
           graph.arcs[graph.arcs.size() == 1 ? 0 : head]) {
        rule.arcs.emplace_back(arc.from, arc.to);
      }
    }
    EXPECT_EQ(DifferenceFromRule(passes, head, graph.is_real,
                                 [&](int64_t row) { return rule.Keys(row); }),
              "")
        << rule.tokens << " tokens, head " << head;
  }
}

// A head for each token but one: the tree of a sentence.
Arcs Tree(int32_t tokens, std::mt19937& random) {
  Arcs arcs;
  for (int32_t token = 1; token < tokens; ++token) {
    arcs.push_back({token, static_cast<int32_t>(random() % token)});
  }
  return arcs;
}

// Some that each token is drawn to, itself and the same again among them.
Arcs Drawn(int32_t tokens, int32_t of_token, std::mt19937& random) {
  Arcs arcs;
  for (int32_t token = 0; token < tokens; ++token) {
    for (int32_t i = 0; i < of_token; ++i) {
      arcs.push_back({token, static_cast<int32_t>(random() % tokens)});
    }
  }
  return arcs;
}

TEST(TokenGraphPassesTest, ShowWhatTheRuleShows) {
  testing::OracleReport report("token_graph", "sets");
  std::mt19937 random(5);
  for (const int32_t tokens : {1, 2, 63, 64, 65, 131}) {
    for (const int padding : {0, 1, 2}) {
      std::vector<bool> real(tokens, true);
      for (int32_t i = 0; i < tokens / 3; ++i) {
        if (padding == 1) real[i] = false;
        if (padding == 2) real[tokens - 1 - i] = false;
      }
      const Arcs tree = Tree(tokens, random);
      const Arcs drawn = Drawn(tokens, 3, random);
      ExpectRule({}, {.heads = 2, .is_real = real}, report);
      ExpectRule({.degrees = {0, 1, 5, tokens}},
                 {.heads = 4, .is_real = real, .arcs = {tree}}, report);
      ExpectRule({.degrees = {1, 1, 70}},
                 {.heads = 3, .is_real = real, .arcs = {drawn, {}, tree}},
                 report);
    }
  }
}

TEST(TokenGraphPassesTest, HeadsThatSeeTheSameShareTheirLists) {
  const std::vector<bool> real(64 * 20, true);
  const Arcs arcs = {{0, 1279}, {640, 3}};
  const AttentionPasses passes =
      TokenGraphPasses({.degrees = {2, 1, 2, 2}},
                       {.heads = 4, .is_real = real, .arcs = {arcs}})
          .value();
  const BlockLayout& layout = passes.passes[0].layout;
  EXPECT_EQ(layout.lists(), 2 * 20);
  // Each tile its own block and its neighbours', and a block for either end of
  // two arcs.
  EXPECT_EQ(layout.partial_blocks.size(), 2 * (20 * 3 - 2 + 4));
}

// The most memory that the process has had so far, in bytes.
int64_t PeakMemory() {
  rusage usage = {};
  EXPECT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  return int64_t{usage.ru_maxrss} * 1024;
}

// Every head another degree, all of them one set, whose arcs are all the same:
// a copy of them for each head would be a gigabyte.
TEST(TokenGraphPassesTest, HeadsOfOneSetDoNotCopyItsArcs) {
  constexpr int32_t kHeads = 1024;
  TokenGraphPattern pattern;
  for (int32_t head = 0; head < kHeads; ++head) pattern.degrees.push_back(head);
  const TokenGraph graph = {.heads = kHeads,
                            .is_real = std::vector<bool>(64, true),
                            .arcs = {Arcs(1 << 16, {3, 60})}};
  const int64_t before = PeakMemory();
  const AttentionPasses passes = TokenGraphPasses(pattern, graph).value();
  EXPECT_LT(PeakMemory() - before, 256 << 20);
  TokenGraphRule rule = {.tokens = 64, .arcs = {{3, 60}}};
  for (const int32_t head : {0, 1, 20, kHeads - 1}) {
    rule.degree = head;
    EXPECT_EQ(DifferenceFromRule(passes, head, graph.is_real,
                                 [&](int64_t row) { return rule.Keys(row); }),
              "")
        << "head " << head;
  }
}

TEST(TokenGraphPassesTest, RefuseMoreArcsThanAGraphMayHave) {
  // Over all heads.
  const TokenGraph graph = {
      .heads = 2,
      .is_real = std::vector<bool>(2, true),
      .arcs = {Arcs(1 << 23, {0, 1}), Arcs((1 << 23) + 1, {1, 0})}};
  EXPECT_EQ(TokenGraphPasses({}, graph).status().message(),
            "token_graph: 16777217 arcs; allowed: 16777216");
}

TEST(TokenGraphPassesTest, RefuseWhatDoesNotFit) {
  const auto error = [](const TokenGraphPattern& pattern,
                        const TokenGraph& graph) {
    return std::string(TokenGraphPasses(pattern, graph).status().message());
  };
  const TokenGraph given = {.heads = 2, .is_real = std::vector<bool>(8, true)};
  EXPECT_EQ(error({}, given), "");
  EXPECT_EQ(error({.degrees = {0, -1}}, given),
            "token_graph: degree is -1; allowed: 0 to 1048576");
  EXPECT_EQ(error({.degrees = {1}}, given),
            "token_graph: 1 degrees for 2 heads");
  TokenGraph wrong = given;
  wrong.arcs = {{}, {}, {}};
  EXPECT_EQ(error({}, wrong),
            "token_graph: 3 sets of arcs for 2 heads; allowed: 0, 1 or 2");
  wrong.arcs = {{{0, 7}, {8, 1}}};
  EXPECT_EQ(error({}, wrong),
            "token_graph: an arc from 8 to 1; allowed: 0 to 7");
  wrong.arcs = {{{3, -1}}};
  EXPECT_EQ(error({}, wrong),
            "token_graph: an arc from 3 to -1; allowed: 0 to 7");
  EXPECT_THAT(error({}, {.heads = 1}), HasSubstr("a sequence of 0 tokens"));
  EXPECT_EQ(error({.degrees = {1 << 20}},
                  {.heads = 1, .is_real = std::vector<bool>(1 << 17, true)}),
            "token_graph: 4194304 blocks to list, over all tiles; allowed: "
            "1048576");
}

}  // namespace
}  // namespace sparseserve
