#include "engine/pattern/nsa_passes.h"

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pooled_rules.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

TEST(NsaPassesTest, NameTheParameterThatIsOutOfRange) {
  const auto error = [](const NsaPattern& pattern) {
    return std::string(CheckNsaPattern(pattern).message());
  };
  EXPECT_EQ(error({}), "");
  EXPECT_EQ(error({.stride = 0}), "nsa: stride is 0; allowed: 1 to 1048576");
  EXPECT_EQ(error({.compressed_tokens = 24}),
            "nsa: compressed_tokens is 24; allowed: a multiple of stride, 16, "
            "up to 1048576");
  EXPECT_THAT(error({.compressed_tokens = 0}), HasSubstr("is 0; allowed"));
  EXPECT_THAT(error({.block_tokens = 40}), HasSubstr("block_tokens is 40"));
  EXPECT_EQ(error({.selected_blocks = 2}),
            "nsa: selected_blocks is 2; allowed: 3 to 1048576");
  EXPECT_EQ(error({.window_tokens = 0}),
            "nsa: window_tokens is 0; allowed: 1 to 1048576");
}

TEST(NsaPassesTest, RefuseSequencesThatDoNotFit) {
  const NsaPattern pattern = {2, 2, 2, 3, 2};
  const auto error = [&](const NsaTokens& tokens) {
    return std::string(MakeNsaPasses(pattern, tokens).status().message());
  };
  EXPECT_EQ(error({3, 2, 1, {{0}, {0}, {0, 1}}}), "");
  EXPECT_THAT(error({0, 2, 1, {}}), HasSubstr("tokens is 0"));
  EXPECT_THAT(error({3, 0, 1, {}}), HasSubstr("heads is 0"));
  EXPECT_THAT(error({3, 2, 3, {}}), HasSubstr("kv_heads is 3"));
  EXPECT_THAT(error({1, 3, 2, {{0}, {0}}}), HasSubstr("divisors of 3 heads"));
  EXPECT_THAT(error({3, 2, 1, {{0}, {0}}}),
              HasSubstr("2 lists of blocks, not 3"));
  EXPECT_THAT(error({3, 2, 1, {{0}, {1}, {1}}}),
              HasSubstr("block of a row is 1; allowed: 0 to 0"));
  EXPECT_THAT(error({3, 2, 1, {{0}, {0}, {1, 1}}}),
              HasSubstr("block of a row is 1; allowed: 2 to 1"));
  EXPECT_THAT(error({3, 2, 1, {{0}, {0}, {0}}}),
              HasSubstr("token 2 lacks its own block, 1"));
}

TEST(NsaPassesTest, SelectTheBlocksOfTheRule) {
  testing::OracleReport report("nsa", "sets");
  const NsaPattern pattern = {8, 4, 16, 5, 1};
  const testing::NsaRule rule = {8, 4, 16, 5, 1};
  std::mt19937 random(3);
  std::uniform_real_distribution<double> weight;
  for (const int row : {0, 6, 7, 11, 31, 63, 64, 200, 317}) {
    const auto keys = rule.Compressed(row).size();
    EXPECT_EQ(NsaCompressedKeys(pattern, row + 1), static_cast<int>(keys));
    std::vector<std::vector<double>> weights(3);
    std::vector<double> flat;
    for (std::vector<double>& head : weights) {
      for (size_t key = 0; key < keys; ++key) head.push_back(weight(random));
      flat.insert(flat.end(), head.begin(), head.end());
    }
    const std::vector<int64_t> wanted = rule.Blocks(row, weights);
    EXPECT_EQ(SelectNsaBlocks(pattern, row, flat),
              std::vector<int32_t>(wanted.begin(), wanted.end()));
    report.AddCase();
    report.AddRow();
  }
}

// Here each of both keys shares its strides with a single block.
TEST(NsaPassesTest, SelectBlocksWhoseScoreIsNotANumber) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const NsaPattern pattern = {8, 4, 16, 5, 1};
  const int row = 1023;
  std::mt19937 random(4);
  std::uniform_real_distribution<double> weight;
  std::vector<double> weights(NsaCompressedKeys(pattern, row + 1));
  for (double& value : weights) value = weight(random);
  const std::vector<int32_t> clean = SelectNsaBlocks(pattern, row, weights);
  weights[4 * 30] = kNan;
  weights[4 * 50] = kNan;
  EXPECT_EQ(SelectNsaBlocks(pattern, row, weights),
            (std::vector<int32_t>{0, 30, 50, 62, 63}));
  // Without an order a sort may go astray among many.
  for (size_t i = 0; i < weights.size(); i += 2) weights[i] = kNan;
  EXPECT_EQ(SelectNsaBlocks(pattern, row, weights),
            (std::vector<int32_t>{0, 1, 2, 62, 63}));
  EXPECT_NE(clean, (std::vector<int32_t>{0, 1, 2, 62, 63}));
}

// Rows of each branch's tiles that see nothing are in none, or have a mask of
// none.
TEST(NsaPassesTest, ShowNoCompressedKeyBeforeItsEnd) {
  const NsaPattern pattern = {80, 4, 16, 3, 5};
  NsaTokens tokens = {.tokens = 140, .heads = 2, .kv_heads = 1};
  for (int row = 0; row < 140; ++row) {
    tokens.blocks.push_back(SelectNsaBlocks(pattern, row, {}));
  }
  const NsaPasses passes = MakeNsaPasses(pattern, tokens).value();
  for (const auto* branch :
       {&passes.compressed, &passes.selected, &passes.window}) {
    EXPECT_EQ(branch->Validate(), absl::OkStatus());
  }
  ASSERT_EQ(passes.compressed.passes[0].layout.tiles.size(), 2);
  EXPECT_EQ(passes.compressed.passes[0].layout.tiles[0].first_row, 64);
  EXPECT_EQ(passes.window.passes[0].layout.tiles.size(), 3);
}

}  // namespace
}  // namespace sparseserve
