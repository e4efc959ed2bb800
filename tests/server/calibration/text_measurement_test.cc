#include "server/calibration/text_measurement.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(GroupLayersTest, GroupsCoverAllLayersInOrder) {
  const auto groups = GroupLayers(30, 4);
  ASSERT_EQ(groups.size(), 4);
  EXPECT_EQ(groups[0].first_layer, 0);
  EXPECT_EQ(groups[3].end_layer, 30);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(groups[i].first_layer, groups[i - 1].end_layer);
    EXPECT_GT(groups[i].end_layer, groups[i].first_layer);
  }
  EXPECT_EQ(GroupLayers(2, 4).size(), 2);
}

// Two texts, of which the second has twice the rows: each counts as one where
// texts are counted.
TEST(SummariseBandTest, TextsAreTheSamples) {
  BandMeasurement first;
  first.divergences = {0.01f, 0.03f};
  first.same_top = 2;
  first.log_probability = -4;
  first.dense_log_probability = -3.9;
  first.targets = 2;
  first.density = 0.4;
  first.recalls = {{0.9f, 0.7f}, {1, 1}};
  BandMeasurement second;
  second.divergences = {0.0f, 0.0f, 0.0f, 0.0f};
  second.same_top = 3;
  second.log_probability = -8;
  second.dense_log_probability = -8;
  second.targets = 3;
  second.density = 0.6;
  second.recalls = {{0.4f, 0.8f}, {1, 1}};
  const std::vector<const BandMeasurement*> texts = {&first, &second};
  const PlanQuality quality = SummariseBand(texts, GroupLayers(4, 2), 129, 256);
  EXPECT_EQ(quality.min_tokens, 129);
  EXPECT_EQ(quality.max_tokens, 256);
  EXPECT_EQ(quality.sequences, 2);
  EXPECT_EQ(quality.rows, 6);
  EXPECT_NEAR(quality.divergence_mean, 0.01, 1e-6);
  // Student's t of one degree of freedom: 6.314 / sqrt(2) times the standard
  // deviation 0.01414.
  EXPECT_NEAR(quality.divergence_upper, 0.01 + 6.314 * 0.01, 1e-4);
  EXPECT_NEAR(quality.divergence_p99, 0.029, 1e-4);
  EXPECT_NEAR(quality.top1_agreement, 5.0 / 6, 1e-4);
  EXPECT_NEAR(quality.perplexity_ratio, std::exp(0.1 / 5), 1e-3);
  EXPECT_NEAR(quality.density_p05, 0.41, 1e-6);
  EXPECT_NEAR(quality.density_p50, 0.5, 1e-6);
  EXPECT_NEAR(quality.density_p95, 0.59, 1e-6);
  ASSERT_EQ(quality.recall.size(), 2);
  EXPECT_EQ(quality.recall[0].first_layer, 0);
  EXPECT_EQ(quality.recall[0].last_layer, 1);
  EXPECT_NEAR(quality.recall[0].mean, 0.7, 1e-6);
  EXPECT_NEAR(quality.recall[0].low_share, 0.25, 1e-6);
  EXPECT_NEAR(quality.recall[0].p5, 0.445, 1e-4);
  EXPECT_NEAR(quality.recall[0].text_p5, 0.61, 1e-4);
  EXPECT_EQ(quality.recall[1].mean, 1);
  EXPECT_EQ(quality.recall[1].low_share, 0);
}

TEST(SummariseBandTest, ABoundIsNotRoundedBelowItself) {
  BandMeasurement text;
  text.divergences = {0.0123441f};
  text.recalls = {{1}};
  const std::vector<const BandMeasurement*> texts = {&text, &text};
  const PlanQuality quality = SummariseBand(texts, GroupLayers(1, 1), 1, 64);
  EXPECT_GE(quality.divergence_upper, 0.0123441);
  EXPECT_LE(quality.divergence_upper, 0.01236);
}

}  // namespace
}  // namespace sparseserve
