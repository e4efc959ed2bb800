// Attention that may leave out blocks of negligible weight
// (BlockLayout::skip_below) against what that allows.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/engine/backend/planned_sequence.h"

namespace sparseserve {
namespace {

using SkippingAttentionTest = BackendTest;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

BlockLayout Skipping(const AttentionPlan& plan, double lambda) {
  BlockLayout layout = plan.layout(0);
  layout.skip_below.assign(layout.list_of.size(),
                           static_cast<float>(std::log(lambda)));
  return layout;
}

// Of one row on its own: what is kept of its blocks, all within a stretch.
testing::AttendedRow ByDecisions(const PlannedSequence& sequence, int head,
                                 int keys, double lambda, int& skipped) {
  double maximum = -kInfinity;
  testing::VisibleKeys kept;
  for (int first = 0; first < keys; first += kPageTokens) {
    double greatest = -kInfinity;
    for (int key = first; key < first + kPageTokens; ++key) {
      // Of a single key the LSE is its score.
      greatest = std::max(greatest, sequence.Row(0, head, {{key}}).lse);
    }
    const bool is_kept = !(greatest < maximum + std::log(lambda));
    if (!is_kept) ++skipped;
    for (int key = first; is_kept && key < first + kPageTokens; ++key) {
      kept.push_back({key});
    }
    maximum = std::max(maximum, greatest);
  }
  return sequence.Row(0, head, kept);
}

TEST_P(SkippingAttentionTest, RowsAloneKeepWhatTheOracleKeeps) {
  constexpr int kKeys = 5 * kPageTokens;
  int skipped = 0;
  for (uint32_t seed = 0; seed < 6; ++seed) {
    PlannedSequence sequence({2, 2, 16}, 8, seed,
                             {{Phase::kDecode, kKeys - 1, 1, kKeys}});
    const AttentionPlan plan = sequence.Plan(DensePattern());
    for (const double lambda : {1.0, 0.1, 1e-3}) {
      ExpectedRows expected;
      for (int head = 0; head < 2; ++head) {
        expected.push_back(ByDecisions(sequence, head, kKeys, lambda, skipped));
      }
      EXPECT_LE(
          WorstError(sequence.Attend(backend(), plan, Skipping(plan, lambda)),
                     expected),
          1e-5)
          << "seed " << seed << ", lambda " << lambda;
    }
  }
  EXPECT_GT(skipped, 10);
}

// What is kept of a row's weight has a bound, whoever decides with it; nothing
// is gained by leaving out.
TEST_P(SkippingAttentionTest, LosesNoMoreThanAllowed) {
  constexpr double kMostBlocks = PlannedSequence::kContext / kPageTokens;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    PlannedSequence sequence({4, 2, 32}, 8, 3);
    const AttentionPlan plan = sequence.Plan(DensePattern());
    const auto dense = sequence.Attend(backend(), plan, plan.layout(0), dtype);
    double largest = 0;
    for (const double lambda : {1.0, 1e-2, 1e-4}) {
      const auto found =
          sequence.Attend(backend(), plan, Skipping(plan, lambda), dtype);
      for (size_t i = 0; i < found.lse.size(); ++i) {
        const double loss = double{dense.lse[i]} - found.lse[i];
        ASSERT_GE(loss, -1e-5) << i << ", lambda " << lambda;
        ASSERT_LE(loss, std::log1p(kPageTokens * kMostBlocks * lambda) + 1e-5)
            << i << ", lambda " << lambda;
        largest = std::max(largest, loss);
      }
    }
    RecordProperty("largest_loss", std::to_string(largest));
  }
}

TEST_P(SkippingAttentionTest, IsDenseToTheBitWhereNothingIsSkipped) {
  PlannedSequence sequence({4, 2, 32}, 8, 4);
  const AttentionPlan plan = sequence.Plan(DensePattern());
  const auto dense = sequence.Attend(backend(), plan, plan.layout(0));
  for (const double lambda : {0.0, 1e-300}) {
    const auto found = sequence.Attend(backend(), plan, Skipping(plan, lambda));
    EXPECT_EQ(found.output, dense.output);
    EXPECT_EQ(found.lse, dense.lse);
  }
}

// Its scores are no numbers below others, so its row stays one.
TEST_P(SkippingAttentionTest, KeepsWhatIsNotANumber) {
  PlannedSequence sequence({2, 1, 16}, 8, 5);
  const AttentionPlan plan = sequence.Plan(DensePattern());
  sequence.PoisonQueries(0);
  const auto found = sequence.Attend(backend(), plan, Skipping(plan, 1.0));
  EXPECT_TRUE(std::isnan(found.output[0]));
}

INSTANTIATE_TEST_SUITE_P(Paths, SkippingAttentionTest,
                         ::testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
