#include "engine/profile/head_measures.h"

#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr int kTokens = 1024;

// A head whose 15 * 64 sampled rows all do the same.
class HeadMeasuresTest : public ::testing::Test {
 protected:
  HeadMeasuresTest()
      : profile_({.layers = 1, .heads = 1, .kv_heads = 1, .tokens = kTokens},
                 {}) {
    profile_.visited(0, 0) = {1, 1};
    sums().heaviest_blocks.assign(kTokens / 64, 15);
  }

  WeightSums& sums() { return profile_.layer_sums(0)[0]; }
  double rows() const { return static_cast<double>(profile_.sampled_rows()); }
  // Lays `share` of every row's weight on `position`, `distance` away.
  void Lay(double share, int position, int distance) {
    sums().keys[position] += static_cast<float>(share * rows());
    sums().distances[distance] += static_cast<float>(share * rows());
    if (position < kSinkKeys) {
      sums().sink_distances[distance] += static_cast<float>(share * rows());
    }
  }
  HeadMeasures Measures() const { return MeasuresOf(profile_, 0, 0); }

  AttentionProfile profile_;
};

TEST_F(HeadMeasuresTest, NearKeysMakeALocalHead) {
  for (int i = 0; i < 200; ++i) Lay(0.9 / 200, 500 + i, 128);
  Lay(0.1, 800, 129);
  const HeadMeasures measures = Measures();
  EXPECT_EQ(measures.head_class, HeadClass::kLocal);
  EXPECT_NEAR(measures.near_share, 0.9, 1e-5);
}

TEST_F(HeadMeasuresTest, FirstKeysMakeASinkHead) {
  Lay(0.85, 3, 600);
  Lay(0.15, 4, 10);
  const HeadMeasures measures = Measures();
  EXPECT_EQ(measures.head_class, HeadClass::kSink);
  EXPECT_NEAR(measures.sink_4, 0.85, 1e-6);
  EXPECT_NEAR(measures.mean_distance, 0.85 * 600 + 0.15 * 10, 1e-3);
  EXPECT_NEAR(measures.mean_distance_without_sink, 10, 1e-3);
}

TEST_F(HeadMeasuresTest, FarDistancesMakeASlashHead) {
  for (int i = 0; i < 500; ++i) Lay(0.9 / 500, 4 + i, 300);
  for (int i = 0; i < 100; ++i) Lay(0.1 / 100, 600 + i, 500 + i);
  EXPECT_EQ(Measures().head_class, HeadClass::kSlash);
}

TEST_F(HeadMeasuresTest, FewKeysMakeAVerticalHead) {
  for (int i = 0; i < 500; ++i) Lay(1.0 / 500, 4 + i % 10, 129 + i);
  EXPECT_EQ(Measures().head_class, HeadClass::kVertical);
}

TEST_F(HeadMeasuresTest, EvenWeightsMakeADiffuseHead) {
  for (int i = 0; i < 800; ++i) Lay(1.0 / 800, 4 + i, 130 + i);
  EXPECT_EQ(Measures().head_class, HeadClass::kRetrieval);
  sums().relative_entropy = 0.8001 * rows();
  EXPECT_EQ(Measures().head_class, HeadClass::kDiffuse);
}

TEST_F(HeadMeasuresTest, TheLargestShareDecides) {
  Lay(0.95, 1, 100);
  Lay(0.05, 500, 300);
  // Both local and sink: the first of equals.
  EXPECT_EQ(Measures().head_class, HeadClass::kLocal);
  sums().relative_entropy = 0.99 * rows();
  EXPECT_EQ(Measures().head_class, HeadClass::kDiffuse);
}

TEST_F(HeadMeasuresTest, CountsBlocksToNineTenths) {
  Lay(1, 500, 100);
  EXPECT_EQ(Measures().blocks_90, 1);
  sums().heaviest_blocks[0] = 0.5 * 15;
  sums().heaviest_blocks[1] = 0.85 * 15;
  EXPECT_EQ(Measures().blocks_90, 3);
}

}  // namespace
}  // namespace sparseserve
