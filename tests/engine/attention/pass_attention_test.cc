// Passes through a backend against rules in double precision.

#include "engine/attention/pass_attention.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/longformer_passes.h"
#include "gtest/gtest.h"
#include "tests/engine/attention/attended_passes.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/encoder_rules.h"

namespace sparseserve {
namespace {

using testing::AttendedRow;
using testing::AttendRow;
using testing::LongformerRule;
using testing::VisibleKeys;

using PassAttentionTest = BackendTest;

// Every key of some tokens, in one pass for each span of keys.
AttentionPasses PassesOver(
    int tokens, const std::vector<MaskedLayoutBuilder::Keys>& spans) {
  AttentionPasses passes = {
      .tokens = tokens, .heads = 1, .combiner = PassCombiner::kMergeByLse};
  for (const MaskedLayoutBuilder::Keys& span : spans) {
    AttentionPass pass;
    pass.heads = {0};
    for (int32_t token = 0; token < tokens; ++token) {
      // Out of order, so that slots are no tokens.
      pass.query_tokens.push_back(tokens - 1 - token);
      pass.key_tokens.push_back(token);
    }
    MaskedLayoutBuilder builder(1, HasToken(pass.key_tokens));
    for (const QueryTile& tile : TilesOf(pass.query_tokens)) {
      builder.BeginList(tile.rows);
      builder.Show({0, tile.rows}, span);
      builder.AddTile(tile, {builder.EndList()});
    }
    pass.layout = builder.TakeLayout();
    passes.passes.push_back(std::move(pass));
  }
  return passes;
}

TEST_P(PassAttentionTest, EqualsTheRuleOfDilatedAndCausalWindows) {
  constexpr int kHeads = 4, kTokens = 230;
  LongformerTokens tokens = {.heads = kHeads,
                             .is_real = std::vector<bool>(kTokens, true),
                             .global = {3, 64, 127, 209}};
  for (int i = 0; i < 3; ++i) tokens.is_real[i] = false;
  for (int i = 210; i < kTokens; ++i) tokens.is_real[i] = false;
  LongformerRule rule = {.one_sided_window = 9, .real = tokens.is_real};
  rule.global.resize(kTokens);
  for (const int32_t token : tokens.global) rule.global[token] = true;
  for (const int head_dim : {24, 5}) {
    for (const bool is_causal : {false, true}) {
      const LongformerPattern pattern = {.one_sided_window = 9,
                                         .dilations = {1, 3, 3, 70},
                                         .is_causal = is_causal};
      rule.causal = is_causal;
      const std::vector<HeadRows> projections = {
          DrawHeads(kHeads, kTokens, head_dim, is_causal ? 8 : 1, 1),
          DrawHeads(kHeads, kTokens, head_dim, 1, 2)};
      const double scale = 1 / std::sqrt(head_dim);
      const AttendedPasses found =
          Attend(backend(), LongformerPasses(pattern, tokens).value(),
                 projections, scale);
      for (int h = 0; h < kHeads; ++h) {
        rule.dilation = pattern.dilations[h];
        for (int row = 0; row < kTokens; ++row) {
          if (!rule.real[row]) {
            EXPECT_EQ(found.lse[h][row], -INFINITY);
            for (const double value : found.output[h][row]) {
              EXPECT_EQ(value, 0);
            }
            continue;
          }
          const HeadRows& from = projections[rule.global[row] ? 1 : 0];
          const AttendedRow wanted = AttendRow(
              from.q[h][row], from.k[h], from.v[h], scale, rule.Keys(row));
          EXPECT_LE(RowError(found.output[h][row], wanted.output), 1e-5);
          EXPECT_NEAR(found.lse[h][row], wanted.lse,
                      1e-5 * std::max(1.0, std::abs(wanted.lse)));
        }
      }
    }
  }
}

// One softmax, however its keys are spread over passes; keys in two passes
// count twice.
TEST_P(PassAttentionTest, MergesTheSlotsOfATokenByTheirLse) {
  constexpr int kTokens = 150;
  const std::vector<HeadRows> projections = {DrawHeads(1, kTokens, 16, 3, 5)};
  const HeadRows& from = projections[0];
  const auto expect = [&](const AttentionPasses& passes,
                          const VisibleKeys& keys) {
    const AttendedPasses found = Attend(backend(), passes, projections, 0.25);
    for (int row = 0; row < kTokens; ++row) {
      const AttendedRow wanted =
          AttendRow(from.q[0][row], from.k[0], from.v[0], 0.25, keys);
      EXPECT_LE(RowError(found.output[0][row], wanted.output), 1e-5);
      EXPECT_NEAR(found.lse[0][row], wanted.lse,
                  1e-5 * std::max(1.0, std::abs(wanted.lse)));
    }
  };
  VisibleKeys all;
  for (int key = 0; key < kTokens; ++key) all.push_back({.key = key});
  expect(PassesOver(kTokens, {{0, kTokens}}), all);
  expect(PassesOver(kTokens, {{0, 70}, {70, kTokens}}), all);
  expect(PassesOver(kTokens, {{100, kTokens}, {1, 100}, {0, 1}}), all);
  for (int key = 60; key < 80; ++key) all[key].count = 2;
  expect(PassesOver(kTokens, {{0, 80}, {60, kTokens}}), all);
}

// A slot whose weight is lost beside another's adds nothing, not even where a
// difference of the two values is too large for a float.
TEST_P(PassAttentionTest, SlotsWithoutWeightLeaveTheOutputAlone) {
  HeadRows rows = DrawHeads(1, 2, 8, 1, 5);
  for (int row = 0; row < 2; ++row) {
    for (int c = 0; c < 8; ++c) {
      rows.q[0].values[row * 8 + c] = 10;
      rows.k[0].values[row * 8 + c] = row == 0 ? 2 : -2;
      rows.v[0].values[row * 8 + c] = row == 0 ? 3e38f : -3e38f;
    }
  }
  const AttendedPasses found =
      Attend(backend(), PassesOver(2, {{0, 1}, {1, 2}}), {rows}, 1);
  for (int row = 0; row < 2; ++row) {
    EXPECT_FLOAT_EQ(static_cast<float>(found.lse[0][row]), 160);
    for (const double value : found.output[0][row]) {
      EXPECT_FLOAT_EQ(static_cast<float>(value), 3e38f);
    }
  }
}

// A bias belongs to the scaled score, in every kernel and in any block.
TEST_P(PassAttentionTest, AddsBiasesToScaledScores) {
  constexpr int kTokens = 150;
  const std::vector<HeadRows> projections = {DrawHeads(1, kTokens, 16, 1, 6)};
  const HeadRows& from = projections[0];
  AttentionPasses passes = PassesOver(kTokens, {{0, kTokens}});
  BlockLayout& layout = passes.passes[0].layout;
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 3);
  layout.bias_tiles.resize(2 * 64 * 64);
  for (float& bias : layout.bias_tiles) bias = normal(random);
  // Of three blocks the second has none.
  const auto blocks = static_cast<int64_t>(layout.tiles.size());
  layout.full_bias_of.clear();
  layout.partial_bias_of.assign(blocks, 1);
  for (int64_t tile = 0; tile < blocks; ++tile) {
    layout.full_bias_of.insert(layout.full_bias_of.end(), {0, -1});
  }
  ASSERT_EQ(passes.Validate(), absl::OkStatus());
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const AttendedPasses found =
        Attend(backend(), passes, projections, 0.25, dtype);
    for (int row = 0; row < kTokens; ++row) {
      const int slot = kTokens - 1 - row;
      VisibleKeys keys;
      for (int key = 0; key < kTokens; ++key) {
        const float* tile = layout.bias_tiles.data() + (key < 64 ? 0 : 4096);
        const double bias = key / 64 == 1 ? 0 : tile[slot % 64 * 64 + key % 64];
        keys.push_back({.key = key, .bias = bias});
      }
      const AttendedRow wanted =
          AttendRow(from.q[0][row], from.k[0], from.v[0], 0.25, keys);
      EXPECT_LE(RowError(found.output[0][row], wanted.output),
                dtype == DType::kF32 ? 1e-5 : 2e-2);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, PassAttentionTest,
                         ::testing::ValuesIn(AttentionPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
