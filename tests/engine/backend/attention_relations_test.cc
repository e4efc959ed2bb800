// What must hold between several runs of attention over static patterns,
// whatever the numbers are.

#include <cmath>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/engine/backend/planned_sequence.h"
#include "tests/testing/reference_attention.h"
#include "tests/testing/static_rules.h"

namespace sparseserve {
namespace {

using testing::AttendedRow;
using testing::RowPlace;
using testing::StaticCase;
using testing::StaticCases;
using testing::StaticRuleKeys;
using testing::VisibleKeys;

constexpr int kContext = PlannedSequence::kContext;

using AttentionRelationsTest = BackendTest;

TEST_P(AttentionRelationsTest, PatternsThatShowAllAreDenseToTheBit) {
  PlannedSequence sequence({}, 1, 3);
  const AttentionPlan dense_plan = sequence.Plan(DensePattern());
  const auto dense =
      sequence.Attend(backend(), dense_plan, dense_plan.layout(0));
  for (const PatternSpec& pattern :
       {PatternSpec(SlidingWindowPattern{kContext}),
        PatternSpec(SinkWindowPattern{5, kContext - 5}),
        PatternSpec(SinkWindowPattern{kContext, 1}),
        PatternSpec(TriShapePattern{0, 1, 99}), PatternSpec(StridedPattern{1}),
        PatternSpec(StridedPattern{kContext}),
        PatternSpec(FixedPattern{kContext, 1}),
        PatternSpec(FixedPattern{70, 70}),
        PatternSpec(DilatedWindowPattern{1, kContext}),
        PatternSpec(ChunkedLocalPattern{kContext})}) {
    const AttentionPlan plan = sequence.Plan(pattern);
    const auto found = sequence.Attend(backend(), plan, plan.layout(0));
    EXPECT_EQ(found.output, dense.output) << PatternName(pattern);
    EXPECT_EQ(found.lse, dense.lse) << PatternName(pattern);
  }
}

// Every second block of each list in one layout, the others in another. A tile
// whose list has one block is in the first alone.
std::pair<BlockLayout, BlockLayout> Halves(const BlockLayout& layout) {
  BlockLayout halves[2];
  for (int half = 0; half < 2; ++half) {
    BlockLayout& to = halves[half];
    to.kv_heads = layout.kv_heads;
    to.predicates = layout.predicates;
    for (size_t t = 0; t < layout.tiles.size(); ++t) {
      if (half == 1 && layout.ListBlocks(layout.list_of[t * to.kv_heads]) < 2) {
        continue;
      }
      to.tiles.push_back(layout.tiles[t]);
      for (int head = 0; head < layout.kv_heads; ++head) {
        const int32_t list = layout.list_of[t * layout.kv_heads + head];
        to.list_of.push_back(static_cast<int32_t>(to.lists()));
        int turn = half;
        for (int64_t i = layout.full_offsets[list];
             i < layout.full_offsets[list + 1]; ++i) {
          if (turn++ % 2 == 0) to.full_blocks.push_back(layout.full_blocks[i]);
        }
        for (int64_t i = layout.partial_offsets[list];
             i < layout.partial_offsets[list + 1]; ++i) {
          if (turn++ % 2 == 0) {
            to.partial_blocks.push_back(layout.partial_blocks[i]);
          }
        }
        to.full_offsets.push_back(to.full_blocks.size());
        to.partial_offsets.push_back(to.partial_blocks.size());
        to.predicate_of.push_back(
            layout.predicate_of.empty() ? -1 : layout.predicate_of[list]);
      }
    }
    EXPECT_EQ(to.Validate(), absl::OkStatus());
  }
  return {halves[0], halves[1]};
}

TEST_P(AttentionRelationsTest, TwoPassesMergedByLseAreOnePass) {
  PlannedSequence sequence({}, 2, 4);
  const int head_dim = sequence.shape().head_dim;
  for (const StaticCase& c : StaticCases()) {
    SCOPED_TRACE(c.name);
    const AttentionPlan plan = sequence.Plan(c.pattern);
    const auto whole = sequence.Attend(backend(), plan, plan.layout(0));
    const auto [first, second] = Halves(plan.layout(0));
    const PlannedSequence::Found parts[] = {
        sequence.Attend(backend(), plan, first),
        sequence.Attend(backend(), plan, second)};
    ExpectedRows merged;
    for (size_t r = 0; r < whole.lse.size(); ++r) {
      std::vector<AttendedRow> rows;
      for (const PlannedSequence::Found& part : parts) {
        const auto from = part.output.begin() + r * head_dim;
        rows.push_back({{from, from + head_dim}, part.lse[r]});
      }
      merged.push_back(testing::MergeByLse(rows));
    }
    EXPECT_LE(WorstError(whole, merged), 1e-5);
  }
}

TEST_P(AttentionRelationsTest, HiddenKeysChangeNothing) {
  // One row, so that what it does not see is seen by nobody.
  for (const PlannedSequence::Part& part :
       {PlannedSequence::Part{Phase::kDecode, 332, 1, 300},
        PlannedSequence::Part{Phase::kPrefill, 207, 1, 300}}) {
    for (const StaticCase& c : StaticCases()) {
      SCOPED_TRACE(c.name);
      PlannedSequence sequence({}, 1, 5, {part});
      const AttentionPlan plan = sequence.Plan(c.pattern);
      const auto before = sequence.Attend(backend(), plan, plan.layout(0));
      std::vector<bool> seen(kContext);
      for (const auto& key : StaticRuleKeys(
               c.pattern, {part.first_position, part.phase == Phase::kDecode,
                           part.prompt_tokens})) {
        seen[key.key] = true;
      }
      sequence.Overwrite([&](int position) { return !seen[position]; });
      const auto after = sequence.Attend(backend(), plan, plan.layout(0));
      EXPECT_EQ(after.output, before.output);
      EXPECT_EQ(after.lse, before.lse);
      sequence.Overwrite([&](int position) { return seen[position]; });
      EXPECT_NE(sequence.Attend(backend(), plan, plan.layout(0)).output,
                before.output);
    }
  }
}

TEST_P(AttentionRelationsTest, DifferenceOfLseIsTheShareOfDenseWeight) {
  PlannedSequence sequence({}, 4, 6);
  const int heads = sequence.shape().heads;
  const AttentionPlan dense_plan = sequence.Plan(DensePattern());
  const auto dense =
      sequence.Attend(backend(), dense_plan, dense_plan.layout(0));
  for (const StaticCase& c : StaticCases()) {
    SCOPED_TRACE(c.name);
    const AttentionPlan plan = sequence.Plan(c.pattern);
    const auto found = sequence.Attend(backend(), plan, plan.layout(0));
    AttentionArgs args = sequence.Args(plan);
    args.layout = &plan.layout(0);
    const ReferenceAttentionResult reference = ReferenceAttention(args);
    args.layout = &dense_plan.layout(0);
    const ReferenceAttentionResult all = ReferenceAttention(args);
    sequence.ForRows(plan, [&](int64_t row, const RowPlace& place) {
      if (place.position % 5 != 0) return;
      const VisibleKeys listed = StaticRuleKeys(c.pattern, place);
      const int head = static_cast<int>(row % heads);
      // The weight of one key of the dense softmax is exp(its score - LSE); a
      // key's own LSE is its score.
      double recall = 0;
      for (const auto& key : listed) {
        recall += std::exp(sequence.Row(row, head, {key}).lse -
                           all.lse[row * heads + head]);
      }
      const int64_t at = row * heads + head;
      ASSERT_NEAR(std::exp(reference.lse[at] - all.lse[at]), recall, 1e-6);
      ASSERT_NEAR(std::exp(found.lse[at] - dense.lse[at]), recall, 2e-5);
    });
  }
}

// Each list with one more block in full, drawn from those before its tile's
// own, whether it was listed or not.
BlockLayout Grown(const BlockLayout& layout, std::mt19937& random) {
  BlockLayout grown;
  grown.kv_heads = layout.kv_heads;
  grown.tiles = layout.tiles;
  grown.predicates = layout.predicates;
  for (size_t i = 0; i < layout.list_of.size(); ++i) {
    const int32_t list = layout.list_of[i];
    std::set<int32_t> full(
        layout.full_blocks.begin() + layout.full_offsets[list],
        layout.full_blocks.begin() + layout.full_offsets[list + 1]);
    std::set<int32_t> partial(
        layout.partial_blocks.begin() + layout.partial_offsets[list],
        layout.partial_blocks.begin() + layout.partial_offsets[list + 1]);
    const int own =
        layout.tiles[i / layout.kv_heads].first_position / kPageTokens;
    if (own > 0) {
      const int32_t drawn = static_cast<int32_t>(random() % own);
      full.insert(drawn);
      partial.erase(drawn);
    }
    grown.list_of.push_back(static_cast<int32_t>(i));
    grown.full_blocks.insert(grown.full_blocks.end(), full.begin(), full.end());
    grown.partial_blocks.insert(grown.partial_blocks.end(), partial.begin(),
                                partial.end());
    grown.full_offsets.push_back(grown.full_blocks.size());
    grown.partial_offsets.push_back(grown.partial_blocks.size());
    grown.predicate_of.push_back(
        layout.predicate_of.empty() ? -1 : layout.predicate_of[list]);
  }
  return grown;
}

TEST_P(AttentionRelationsTest, MoreBlocksNeverLowerRecall) {
  PlannedSequence sequence({}, 4, 7);
  std::mt19937 random(1);
  for (const StaticCase& c : StaticCases()) {
    SCOPED_TRACE(c.name);
    const AttentionPlan plan = sequence.Plan(c.pattern);
    BlockLayout layout = plan.layout(0);
    std::vector<float> before = sequence.Attend(backend(), plan, layout).lse;
    for (int step = 0; step < 3; ++step) {
      layout = Grown(layout, random);
      const std::vector<float> after =
          sequence.Attend(backend(), plan, layout).lse;
      for (size_t i = 0; i < after.size(); ++i) {
        ASSERT_GE(after[i], before[i] - 1e-5f);
      }
      before = after;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, AttentionRelationsTest,
                         ::testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
