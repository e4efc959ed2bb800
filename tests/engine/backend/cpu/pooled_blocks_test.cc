#include "engine/backend/cpu/pooled_blocks.h"

#include <cmath>
#include <limits>
#include <vector>

#include "engine/backend/cpu/stored_keys.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/selection_batch.h"

namespace sparseserve::cpu {
namespace {

using Batch = SelectionBatch;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::IsEmpty;

constexpr float kNoGate = -std::numeric_limits<float>::infinity();

const SelectionKernels& Kernels() {
  return SelectionKernelsFor(AvailableSimdLevel(SimdLevel::kAvx512));
}

TEST(PooledBlocksTest, MeansAndSimilaritiesAreThoseOfTheStoredKeys) {
  for (const Batch::Shape& shape : {Batch::Shape{2, 1, 64, DType::kF32},
                                    Batch::Shape{2, 1, 24, DType::kF32},
                                    Batch::Shape{2, 1, 32, DType::kBF16}}) {
    Batch batch(shape, {{150, 5}}, SimilarityRule(), 1);
    batch.AlignKeys(0, 1);
    const SelectArgs& args = batch.args();
    const SliceRows rows = {0, 0, 5, 145};
    PoolingScratch scratch;
    PooledBlocks pooled;
    PoolKeys(Kernels(), args, rows, 0, scratch, pooled);
    ASSERT_EQ(pooled.similarities.size(), 3);
    const int64_t depth = PaddedDepth(shape.head_dim);
    for (int block = 0; block < 3; ++block) {
      const int count = block < 2 ? 64 : 150 - 128;
      const int64_t first =
          int64_t{args.pages[0][block]} * kPageTokens * shape.head_dim;
      std::vector<double> copied(count * depth);  // zeros behind a row's own
      for (int r = 0; r < count; ++r) {
        for (int i = 0; i < shape.head_dim; ++i) {
          copied[r * depth + i] =
              batch.KeyElement(first + r * shape.head_dim + i);
        }
      }
      std::vector<double> mean(depth), unit_mean(depth);
      for (int r = 0; r < count; ++r) {
        double square = 0;
        for (int i = 0; i < depth; ++i) {
          square += std::pow(copied[r * depth + i], 2);
        }
        for (int i = 0; i < depth; ++i) {
          mean[i] += copied[r * depth + i] / count;
          unit_mean[i] += copied[r * depth + i] / std::sqrt(square) / count;
        }
      }
      double similarity = 0;
      for (int i = 0; i < depth; ++i) {
        EXPECT_NEAR(pooled.means[block * depth + i], mean[i], 1e-5);
        similarity += unit_mean[i] * unit_mean[i];
      }
      EXPECT_NEAR(pooled.similarities[block], similarity, 1e-5);
    }
    EXPECT_GT(pooled.similarities[1], 0.95f);
    EXPECT_LT(pooled.similarities[0], 0.5f);
  }
}

TEST(PooledBlocksTest, BlocksBelowTheBoundScoreNothingAndOthersAllTheWeight) {
  Batch batch({6, 2, 64, DType::kF32}, {{333, 64}}, SimilarityRule(), 2);
  for (const int block : {1, 4}) batch.AlignKeys(0, block);
  const SelectArgs& args = batch.args();
  const SliceRows rows = {0, 0, 64, 269};
  PoolingScratch scratch;
  PooledBlocks keys;
  PoolKeys(Kernels(), args, rows, 1, scratch, keys);
  PoolQueries(Kernels(), args, rows, 1, scratch);
  std::vector<float> scores;
  PooledScores(Kernels(), args, keys, 6, 0.9f, scratch, scores);
  ASSERT_EQ(scores.size(), 6);
  for (const int block : {0, 2, 3, 5}) EXPECT_EQ(scores[block], 0);
  EXPECT_NEAR(scores[1] + scores[4], 3, 1e-5);
  PooledScores(Kernels(), args, keys, 6, kNoGate, scratch, scores);
  EXPECT_THAT(scores, Each(::testing::Gt(0)));
  PooledScores(Kernels(), args, keys, 6, 2.0f, scratch, scores);
  EXPECT_THAT(scores, Each(0));
}

TEST(PooledBlocksTest, JoinedBlocksHaveTheMeanOfAllTheirRows) {
  PooledBlocks pooled;
  for (int i = 0; i < 12; ++i) {  // six blocks of two elements
    pooled.means.push_back(static_cast<float>(i * i));
  }
  pooled.similarities.assign(6, 1.0f);
  JoinBlocks(3, 2, pooled);
  EXPECT_THAT(pooled.means,
              ElementsAre(FloatEq(20 / 3.0f), FloatEq(35 / 3.0f),
                          FloatEq(200 / 3.0f), FloatEq(251 / 3.0f)));
  EXPECT_THAT(pooled.similarities, IsEmpty());
}

// A vector of zeros is like no other, and no division by its length.
TEST(PooledBlocksTest, ZerosCountAsUnlike) {
  Batch batch({1, 1, 16, DType::kF32}, {{64, 4}}, SimilarityRule(), 3);
  std::fill(batch.queries().begin(), batch.queries().end(), 0.0f);
  const int64_t width = batch.args().queries.columns;
  batch.queries()[0] = 2;
  batch.queries()[width] = 3;
  PoolingScratch scratch;
  PoolQueries(Kernels(), batch.args(), {0, 0, 4, 60}, 0, scratch);
  EXPECT_FLOAT_EQ(scratch.queries.similarities[0], 0.25f);
  EXPECT_FLOAT_EQ(scratch.queries.means[0], 1.25f);
}

}  // namespace
}  // namespace sparseserve::cpu
