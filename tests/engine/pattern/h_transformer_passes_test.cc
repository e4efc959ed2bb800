#include "engine/pattern/h_transformer_passes.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pass_keys.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::KeysOf;
using testing::SlotKeys;

// What one token sees, over all levels: a level for each key, and with what
// weight each of its tokens counts.
struct Sight {
  std::vector<int> levels;      // [tokens]; -1: not seen
  std::vector<double> weights;  // [tokens]
};

std::vector<Sight> SightsOf(const AttentionPasses& passes) {
  std::vector<Sight> sights(passes.tokens,
                            {std::vector<int>(passes.tokens, -1),
                             std::vector<double>(passes.tokens)});
  for (size_t level = 0; level < passes.passes.size(); ++level) {
    const AttentionPass& pass = passes.passes[level];
    const AttentionPasses one = {
        .tokens = passes.tokens, .heads = passes.heads, .passes = {pass}};
    const auto tokens_of = [&](int64_t named) {
      return pass.groups.size() > 0
                 ? std::vector<int32_t>(
                       pass.groups[static_cast<int32_t>(named)].begin(),
                       pass.groups[static_cast<int32_t>(named)].end())
                 : std::vector<int32_t>{static_cast<int32_t>(named)};
    };
    for (const SlotKeys& slot : KeysOf(one, 0)) {
      for (const int32_t row : tokens_of(slot.token)) {
        for (const testing::VisibleKey& seen : slot.keys) {
          const std::vector<int32_t> together = tokens_of(seen.key);
          for (const int32_t key : together) {
            // Nothing is seen at two levels.
            EXPECT_EQ(sights[row].levels[key], -1);
            sights[row].levels[key] = static_cast<int>(level);
            sights[row].weights[key] = seen.count * std::exp(seen.bias) /
                                       static_cast<double>(together.size());
          }
        }
      }
    }
  }
  return sights;
}

// By the paper's tree: the level at which the ancestors are siblings.
int LevelOf(int64_t row, int64_t key, int64_t block) {
  row /= block;
  key /= block;
  int level = 0;
  while (row / 2 != key / 2) {
    row /= 2;
    key /= 2;
    ++level;
  }
  return level;
}

TEST(HTransformerPassesTest, ShowEveryTokenOnceAtTheLevelOfTheTree) {
  testing::OracleReport report("h_transformer", "sets");
  for (const int block : {1, 3, 16, 40}) {
    for (const int tokens : {1, 2, block, 2 * block + 1, 64, 65, 130, 200}) {
      for (const int padding : {0, 1, 2}) {
        for (const bool is_causal : {false, true}) {
          std::vector<bool> real(tokens, true);
          for (int i = 0; i < tokens / 3; ++i) {
            if (padding == 1) real[i] = false;
            if (padding == 2) real[tokens - 1 - i] = false;
          }
          SCOPED_TRACE(::testing::Message()
                       << tokens << " tokens in blocks of " << block
                       << ", padding " << padding << ", causal " << is_causal);
          const AttentionPasses passes =
              HTransformerPasses({block, is_causal}, {1, real}).value();
          ASSERT_EQ(passes.Validate(), absl::OkStatus());
          const std::vector<Sight> sights = SightsOf(passes);
          report.AddCase();
          report.AddRows(tokens, 0);
          for (int row = 0; row < tokens; ++row) {
            std::vector<int> wanted(tokens, -1);
            for (int key = 0; key < tokens && real[row]; ++key) {
              const int level = LevelOf(row, key, block);
              const bool is_before = level == 0 ? key <= row : key < row;
              if (real[key] && (!is_causal || is_before)) wanted[key] = level;
            }
            ASSERT_EQ(sights[row].levels, wanted) << "row " << row;
            for (int key = 0; key < tokens; ++key) {
              if (wanted[key] < 0) continue;
              ASSERT_NEAR(sights[row].weights[key], 1, 1e-6) << "row " << row;
            }
          }
        }
      }
    }
  }
}

TEST(HTransformerPassesTest, TakeTwiceAsManyTokensTogetherAtEachLevel) {
  const AttentionPasses passes =
      HTransformerPasses({.block_tokens = 16},
                         {2, std::vector<bool>(4096, true)})
          .value();
  ASSERT_EQ(passes.passes.size(), 8);
  EXPECT_EQ(passes.passes[0].groups.size(), 0);
  for (int level = 1; level < 8; ++level) {
    EXPECT_EQ(passes.passes[level].groups.size(), 4096 >> level);
    // One bias for all blocks of the level.
    EXPECT_EQ(passes.passes[level].layout.bias_tiles.size(), 64 * 64);
  }
  // Siblings of blocks of 16 lie within a block of 64.
  EXPECT_EQ(passes.VisitedBlocks(), 2 * (64 + 32 + 16 + 8 + 4 + 2 + 1 + 1));
}

TEST(HTransformerPassesTest, RefuseWhatDoesNotFit) {
  const auto error = [](const HTransformerPattern& pattern,
                        const HTransformerTokens& tokens) {
    return std::string(HTransformerPasses(pattern, tokens).status().message());
  };
  EXPECT_EQ(error({.block_tokens = 0}, {1, {true}}),
            "h_transformer: block_tokens is 0; allowed: 1 to 1048576");
  EXPECT_THAT(error({}, {1, {}}), HasSubstr("a sequence of 0 tokens"));
  EXPECT_THAT(error({}, {0, {true}}), HasSubstr("0 heads"));
  EXPECT_EQ(error({}, {64, std::vector<bool>(1 << 18, true)}),
            "h_transformer: 33552384 slots of queries, over all heads; "
            "allowed: 16777216");
  EXPECT_EQ(
      error({.block_tokens = 1 << 17}, {1, std::vector<bool>(1 << 17, true)}),
      "h_transformer: 4194304 blocks to list, over all tiles; allowed: "
      "1048576");
}

}  // namespace
}  // namespace sparseserve
