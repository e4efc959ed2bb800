// Attention over plans of static patterns against their rules in double
// precision.

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/engine/backend/planned_sequence.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/reference_selection.h"
#include "tests/testing/static_rules.h"

namespace sparseserve {
namespace {

using testing::StaticCase;
using testing::StaticCases;
using testing::VisibleKeys;

using StaticAttentionTest = BackendTest;

using PatternOf = std::function<PatternSpec(int head)>;

// Rows one by one, on what is stored; and all of them, with what storing costs.
void ExpectRules(const std::string& system, Backend& backend,
                 PlannedSequence& sequence, const AttentionPlan& plan,
                 const PatternOf& pattern_of) {
  testing::OracleReport exact(system, "f32"), rounded(system, "bf16");
  const ExpectedRows drawn = ByRules(sequence, plan, pattern_of);
  const auto rows = static_cast<int64_t>(drawn.size());
  const auto take = [&](testing::OracleReport& report, double error,
                        double most) {
    EXPECT_LE(error, most);
    report.AddCase();
    report.AddRows(rows, error);
  };
  take(exact, WorstError(sequence.Attend(backend, plan, plan.layout(0)), drawn),
       1e-5);
  const PlannedSequence::Found bf16 =
      sequence.Attend(backend, plan, plan.layout(0), DType::kBF16);
  EXPECT_LE(WorstError(bf16, ByRules(sequence, plan, pattern_of, DType::kBF16)),
            1e-5);
  take(rounded, TotalError(bf16, drawn), 2e-2);
}

TEST_P(StaticAttentionTest, EqualsTheRuleOfEveryPattern) {
  for (const StaticCase& c : StaticCases()) {
    SCOPED_TRACE(c.name);
    // Peaked weights too.
    for (const float scale : {1.0f, 8.0f}) {
      SCOPED_TRACE(scale);
      PlannedSequence sequence({}, scale, 1);
      ExpectRules(std::string(PatternName(c.pattern)), backend(), sequence,
                  sequence.Plan(c.pattern), [&](int) { return c.pattern; });
    }
  }
}

// Streaming heads beside dense ones, and heads that are pruned.
TEST_P(StaticAttentionTest, HeadsOfAMapEqualTheirRules) {
  const struct {
    const char* system;
    PatternSpec other;
  } kCases[] = {{"streaming_heads", SinkWindowPattern{4, 100}},
                {"pruned", PrunedPattern()}};
  for (const auto& c : kCases) {
    for (const float scale : {1.0f, 8.0f}) {
      SCOPED_TRACE(::testing::Message() << c.system << ", " << scale);
      const std::vector<PatternSpec> patterns = {DensePattern(), c.other};
      const PatternMap map =
          PatternMap::Create({1, 3}, patterns, {1, 0, 1}).value();
      PlannedSequence sequence({6, 3, 32}, scale, 12);
      ExpectRules(c.system, backend(), sequence,
                  sequence.Plan(DensePattern(), &map),
                  [&](int head) { return patterns[head / 2 % 2 == 0]; });
    }
  }
}

TEST_P(StaticAttentionTest, EqualsTheRuleAtEveryLength) {
  for (const StaticCase& c : StaticCases()) {
    for (const int length : c.lengths) {
      if (length > PlannedSequence::kContext) continue;
      SCOPED_TRACE(::testing::Message() << c.name << ", length " << length);
      PlannedSequence sequence({2, 1, 16}, 1, 9,
                               {{Phase::kPrefill, 0, length, length},
                                {Phase::kDecode, length - 1, 1, length}});
      const AttentionPlan plan = sequence.Plan(c.pattern);
      EXPECT_LE(
          WorstError(sequence.Attend(backend(), plan, plan.layout(0)),
                     ByRules(sequence, plan, [&](int) { return c.pattern; })),
          1e-5);
    }
  }
}

TEST_P(StaticAttentionTest, EqualsTheRuleForEveryGroupAndHeadDim) {
  for (const PlannedSequence::Shape& shape :
       {PlannedSequence::Shape{9, 3, 64}, PlannedSequence::Shape{4, 4, 24},
        PlannedSequence::Shape{8, 1, 40}, PlannedSequence::Shape{2, 1, 128},
        PlannedSequence::Shape{1, 1, 8}}) {
    SCOPED_TRACE(::testing::Message() << shape.heads << "/" << shape.kv_heads
                                      << "x" << shape.head_dim);
    for (const PatternSpec& pattern :
         {PatternSpec(SinkWindowPattern{4, 100}),
          PatternSpec(StridedPattern{50}), PatternSpec(FixedPattern{50, 8}),
          PatternSpec(DilatedWindowPattern{7, 30})}) {
      PlannedSequence sequence(shape, 1, 2);
      const AttentionPlan plan = sequence.Plan(pattern);
      EXPECT_LE(
          WorstError(sequence.Attend(backend(), plan, plan.layout(0)),
                     ByRules(sequence, plan, [&](int) { return pattern; })),
          1e-5)
          << PatternName(pattern);
    }
  }
}

// Whatever lies in the output before, and whoever is beside them.
TEST_P(StaticAttentionTest, PrunedHeadsAreNothingAndLeaveOthersAlone) {
  const PlannedSequence::Shape shape = {6, 3, 32};
  PlannedSequence sequence(shape, 1, 10);
  const PatternMap map =
      PatternMap::Create({1, 3}, {DensePattern(), PrunedPattern()}, {0, 1, 0})
          .value();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const AttentionPlan dense = sequence.Plan(DensePattern());
    const PlannedSequence::Found all =
        sequence.Attend(backend(), dense, dense.layout(0), dtype);
    const AttentionPlan plan = sequence.Plan(DensePattern(), &map);
    ASSERT_EQ(plan.layout(0).Validate(), absl::OkStatus());
    EXPECT_EQ(3 * plan.blocks(0).computed, 2 * plan.blocks(0).allowed);
    const PlannedSequence::Found found =
        sequence.Attend(backend(), plan, plan.layout(0), dtype);
    for (size_t i = 0; i < found.output.size(); ++i) {
      const bool is_pruned = i / 32 % 6 / 2 == 1;
      ASSERT_EQ(found.output[i], is_pruned ? 0 : all.output[i]) << i;
    }
    for (size_t i = 0; i < found.lse.size(); ++i) {
      const bool is_pruned = i % 6 / 2 == 1;
      ASSERT_EQ(found.lse[i], is_pruned ? -HUGE_VALF : all.lse[i]) << i;
    }
  }
}

// One worker attends the longer row first, then the poisoned one, then the
// heads that see nothing: in memory that the poisoned row left.
TEST_P(StaticAttentionTest, PrunedHeadsAreNothingBehindAPoisonedSequence) {
  const PlannedSequence::Shape shape = {4, 2, 32};
  PlannedSequence sequence(
      shape, 1, 11, {{Phase::kDecode, 10, 1, 5}, {Phase::kDecode, 300, 1, 5}});
  sequence.PoisonQueries(0);
  const PatternMap map =
      PatternMap::Create({1, 2}, {DensePattern(), PrunedPattern()}, {0, 1})
          .value();
  const AttentionPlan plan = sequence.Plan(DensePattern(), &map);
  const auto worker = CreateBackendUnderTest(GetParam(), /*threads=*/1);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const PlannedSequence::Found found =
        sequence.Attend(*worker, plan, plan.layout(0), dtype);
    for (size_t i = 0; i < found.output.size(); ++i) {
      const int head = static_cast<int>(i / 32 % 4);
      const bool is_poisoned = i / 32 / 4 == 0;
      if (head >= 2) {
        ASSERT_EQ(found.output[i], 0) << i;
      } else {
        ASSERT_EQ(std::isnan(found.output[i]), is_poisoned) << i;
      }
    }
    for (const size_t i : {2, 3, 6, 7}) EXPECT_EQ(found.lse[i], -HUGE_VALF);
  }
}

TEST_P(StaticAttentionTest, HeadsOfAMapAndOneThatSelectsEqualTheirRules) {
  const PlannedSequence::Shape shape = {8, 4, 32};
  PlannedSequence sequence(shape, 2, 8);
  const XAttentionPattern selecting = {
      .threshold = 0.5f, .dense_layers = 0, .is_last_block_dense = false};
  const std::vector<PatternSpec> patterns = {SinkWindowPattern{4, 100},
                                             selecting, StridedPattern{50},
                                             FixedPattern{100, 8, 1}};
  const PatternMap map =
      PatternMap::Create({1, 4}, patterns, {0, 1, 2, 3}).value();
  const AttentionPlan plan = sequence.Plan(DensePattern(), &map);
  ASSERT_TRUE(plan.Selects(0));

  const AttentionArgs attention = sequence.Args(plan);
  LayoutBuilder selected(shape.kv_heads);
  selected.CopyFrom(plan.layout(0));
  SelectArgs select;
  select.queries = attention.queries;
  select.heads = attention.heads;
  select.kv = attention.kv;
  select.pages = attention.pages;
  select.scale = attention.scale;
  select.base = &plan.layout(0);
  select.rules = plan.rules();
  select.selections = plan.selections(0);
  select.selected = &selected;
  backend().Select(select);
  const BlockLayout& layout = selected.layout();
  ASSERT_EQ(layout.Validate(), absl::OkStatus());

  // The selecting head's rows see the oracle's blocks, the others their rules'
  // keys.
  const int group = shape.heads / shape.kv_heads;
  ExpectedRows expected =
      ByRules(sequence, plan, [&](int head) { return patterns[head / group]; });
  int left_out = 0;
  for (size_t t = 0; t < layout.tiles.size(); ++t) {
    const QueryTile& tile = layout.tiles[t];
    if (!plan.selections(0)[t * shape.kv_heads + 1].IsUsedIn(0)) continue;
    const std::vector<bool> chosen = ReferenceMassChoice(
        ReferenceAntidiagonalScores(select, tile, 1, selecting.stride),
        selecting.threshold);
    left_out +=
        static_cast<int>(std::count(chosen.begin(), chosen.end(), false));
    for (int r = 0; r < tile.rows; ++r) {
      VisibleKeys keys;
      for (int key = 0; key <= tile.first_position + r; ++key) {
        if (chosen[key / kPageTokens]) keys.push_back({.key = key});
      }
      const int64_t row = tile.first_row + r;
      for (int head = group; head < 2 * group; ++head) {
        expected[row * shape.heads + head] = sequence.Row(row, head, keys);
      }
    }
  }
  EXPECT_GT(left_out, 2);
  EXPECT_LE(WorstError(sequence.Attend(backend(), plan, layout), expected),
            1e-5);
}

INSTANTIATE_TEST_SUITE_P(Paths, StaticAttentionTest,
                         ::testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
