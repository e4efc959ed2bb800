#include "engine/pattern/longformer_passes.h"

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

using testing::Difference;
using ::testing::HasSubstr;
using testing::KeysOf;
using testing::LongformerRule;
using testing::SlotKeys;

std::vector<bool> Real(int tokens, int left, int right) {
  std::vector<bool> real(tokens, true);
  for (int i = 0; i < left; ++i) real[i] = false;
  for (int i = 0; i < right; ++i) real[tokens - 1 - i] = false;
  return real;
}

void ExpectRule(const LongformerPattern& pattern,
                const LongformerTokens& tokens, testing::OracleReport& report) {
  const AttentionPasses passes = LongformerPasses(pattern, tokens).value();
  ASSERT_EQ(passes.Validate(), absl::OkStatus());
  LongformerRule rule;
  rule.one_sided_window = pattern.one_sided_window;
  rule.causal = pattern.is_causal;
  rule.real = tokens.is_real;
  rule.global.resize(rule.real.size());
  for (const int32_t token : tokens.global) rule.global[token] = true;
  report.AddCase();
  for (int32_t head = 0; head < tokens.heads; ++head) {
    report.AddRows(static_cast<int64_t>(rule.real.size()), 0);
    rule.dilation = pattern.dilations.empty() ? 1 : pattern.dilations[head];
    std::vector<bool> missing = tokens.is_real;
    for (const SlotKeys& slot : KeysOf(passes, head)) {
      EXPECT_EQ(Difference(slot.keys, rule.Keys(slot.token)), "")
          << "head " << head << " row " << slot.token;
      missing[slot.token] = false;
    }
    EXPECT_EQ(missing, std::vector<bool>(missing.size())) << "head " << head;
  }
}

TEST(LongformerPassesTest, ShowWhatTheRuleShowsAtEveryLength) {
  testing::OracleReport report("longformer", "sets");
  std::mt19937 random(3);
  for (const int window : {0, 1, 5, 40}) {
    for (const int tokens : {1, window - 1, window, window + 1, 2 * window, 63,
                             64, 65, 128, 200}) {
      if (tokens < 1) continue;
      for (const auto& [left, right] :
           {std::pair(0, 0), std::pair(0, tokens / 3), std::pair(tokens / 2, 0),
            std::pair(tokens - 1, 0)}) {
        LongformerTokens given = {.heads = 1,
                                  .is_real = Real(tokens, left, right)};
        // None, one in ten, all.
        for (const int one_in : {0, 10, 1}) {
          SCOPED_TRACE(::testing::Message()
                       << "window " << window << ", " << tokens << " tokens, "
                       << left << " and " << right << " of padding, globals 1/"
                       << one_in);
          given.global.clear();
          for (int token = left; token < tokens - right; ++token) {
            if (one_in > 0 && random() % one_in == 0) {
              given.global.push_back(token);
            }
          }
          ExpectRule({.one_sided_window = window}, given, report);
        }
      }
    }
  }
}

TEST(LongformerPassesTest, ShowDilatedAndCausalRules) {
  testing::OracleReport report("longformer_dilated", "sets");
  const LongformerTokens given = {
      .heads = 4, .is_real = Real(230, 3, 20), .global = {3, 64, 127, 209}};
  for (const bool is_causal : {false, true}) {
    ExpectRule({.one_sided_window = 9, .is_causal = is_causal}, given, report);
    ExpectRule({.one_sided_window = 9,
                .dilations = {1, 3, 3, 70},
                .is_causal = is_causal},
               given, report);
    // More remainders than tokens.
    ExpectRule({.one_sided_window = 2,
                .dilations = {230, 229, 231, 1000000},
                .is_causal = is_causal},
               given, report);
  }
}

TEST(LongformerPassesTest, VisitOnlyBlocksNearTheDiagonalAndThoseOfGlobals) {
  const LongformerTokens given = {
      .heads = 1, .is_real = std::vector<bool>(64 * 64, true), .global = {0}};
  const AttentionPasses passes =
      LongformerPasses({.one_sided_window = 128}, given).value();
  ASSERT_EQ(passes.passes.size(), 2);
  // Two blocks to either side, one that windows cut, and that of the globals.
  EXPECT_LE(passes.VisitedBlocks(), 64 * 6 + 64);
  const BlockLayout& local = passes.passes[0].layout;
  EXPECT_GE(local.full_blocks.size(), 60 * 3);
  EXPECT_EQ(passes.passes[1].layout.tiles.size(), 1);
}

TEST(LongformerPassesTest, RefuseWhatDoesNotFit) {
  const auto error = [](const LongformerPattern& pattern,
                        const LongformerTokens& tokens) {
    return std::string(LongformerPasses(pattern, tokens).status().message());
  };
  const LongformerTokens given = {.heads = 2, .is_real = Real(8, 2, 0)};
  EXPECT_THAT(error({.one_sided_window = -1}, given),
              HasSubstr("one_sided_window is -1; allowed: 0 to 1048576"));
  EXPECT_THAT(error({.dilations = {1, 0}}, given),
              HasSubstr("dilation is 0; allowed: 1 to 1048576"));
  EXPECT_THAT(error({.dilations = {1}}, given),
              HasSubstr("1 dilations for 2 heads"));
  EXPECT_THAT(error({}, {.heads = 1}), HasSubstr("a sequence of 0 tokens"));
  EXPECT_THAT(error({}, {.heads = 0, .is_real = {true}}), HasSubstr("0 heads"));
  LongformerTokens wrong = given;
  wrong.global = {8};
  EXPECT_THAT(error({}, wrong), HasSubstr("global token 8; allowed: 0 to 7"));
  wrong.global = {5, 5};
  EXPECT_THAT(error({}, wrong), HasSubstr("global token 5; allowed: 6 to 7"));
  wrong.global = {1};
  EXPECT_THAT(error({}, wrong), HasSubstr("global token 1 is padding"));
}

}  // namespace
}  // namespace sparseserve
