#include "tests/integration/logits_comparison.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

// A vocabulary of four; the reference's probabilities at one position, of
// which the two largest are kept.
GoldenRows OneRow(std::vector<float> probabilities, uint16_t first,
                  uint16_t second) {
  GoldenRows rows;
  rows.positions = 1;
  rows.top = 2;
  rows.top_ids = {first, second};
  rows.top_logits = {std::log(probabilities[first]),
                     std::log(probabilities[second])};
  rows.log_sum_exp = {0};
  rows.least = {-4};
  rows.target_logprob = {std::log(probabilities[0])};
  return rows;
}

std::vector<float> Logits(std::vector<float> probabilities) {
  for (float& p : probabilities) p = std::log(p) + 3;  // any offset
  return probabilities;
}

TEST(LogitsComparisonTest, CountsMissesOnlyWhereTheMarginIsWide) {
  LogitsComparison comparison;
  const std::vector<float> ours = Logits({0.3f, 0.5f, 0.1f, 0.1f});
  comparison.Add(OneRow({0.5f, 0.4f, 0.05f, 0.05f}, 0, 1), 0, ours);
  EXPECT_EQ(comparison.wide_margins(), 0);
  comparison.Add(OneRow({0.6f, 0.2f, 0.1f, 0.1f}, 0, 1), 0, ours);
  EXPECT_EQ(comparison.wide_margins(), 1);
  EXPECT_EQ(comparison.wide_margin_misses(), 1);
  EXPECT_EQ(comparison.top1_agreement(), 0);
  comparison.Add(OneRow({0.2f, 0.6f, 0.1f, 0.1f}, 1, 0), 0, ours);
  EXPECT_EQ(comparison.wide_margin_misses(), 1);
  EXPECT_NEAR(comparison.top1_agreement(), 1.0 / 3, 1e-12);
}

TEST(LogitsComparisonTest, TakesTheTokensNotKeptAsOneBucket) {
  LogitsComparison comparison;
  comparison.Add(OneRow({0.5f, 0.3f, 0.15f, 0.05f}, 0, 1), 0,
                 Logits({0.4f, 0.4f, 0.05f, 0.15f}));
  const double expected =
      0.5 * std::log(0.5 / 0.4) + 0.3 * std::log(0.3 / 0.4);  // the rest: 0
  EXPECT_NEAR(comparison.mean_divergence(), expected, 1e-6);
}

TEST(LogitsComparisonTest, ScoresTargetsOnBothSides) {
  LogitsComparison comparison;
  comparison.AddWithTarget(OneRow({0.5f, 0.3f, 0.1f, 0.1f}, 0, 1), 0,
                           Logits({0.4f, 0.3f, 0.2f, 0.1f}), 0);
  EXPECT_NEAR(comparison.reference_perplexity(), 2.0, 1e-6);
  EXPECT_NEAR(comparison.perplexity_ratio(), 0.5 / 0.4, 1e-6);
}

TEST(LogitsComparisonTest, MeasuresDifferencesAgainstTheRowsRange) {
  GoldenRows rows = OneRow({0.5f, 0.3f, 0.1f, 0.1f}, 0, 1);
  rows.top_logits = {6, 2};
  LogitsComparison comparison;
  comparison.Add(rows, 0, std::vector<float>{6, 2.5f, 0, -4});
  EXPECT_NEAR(comparison.worst_difference(), 0.05, 1e-6);
}

TEST(LogitsComparisonTest, ANanIsTheWorstDifferenceForGood) {
  LogitsComparison comparison;
  const GoldenRows rows = OneRow({0.5f, 0.3f, 0.1f, 0.1f}, 0, 1);
  comparison.Add(rows, 0, std::vector<float>{std::nanf(""), 1, 0, 0});
  comparison.Add(rows, 0, Logits({0.5f, 0.3f, 0.1f, 0.1f}));
  EXPECT_GT(comparison.worst_difference(), 1e6);
}

}  // namespace
}  // namespace sparseserve
