#include "engine/backend/cpu/last_row_sums.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/backend/selection_batch.h"
#include "tests/testing/selection_oracle.h"

namespace sparseserve::cpu {
namespace {

using Batch = SelectionBatch;
using testing::OracleAttentionSums;
using testing::OracleRows;
using testing::OracleSums;

// The greatest difference, as share of the greatest sum.
double Error(const std::vector<float>& found,
             const std::vector<double>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double worst = 0;
  double greatest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(found[i] - expected[i]);
    if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
    greatest = std::max(greatest, expected[i]);
  }
  return worst / greatest;
}

TEST(LastRowSumsTest, EqualSumsOfSinglePairs) {
  for (const Batch::Shape& shape : {Batch::Shape{9, 3, 64, DType::kF32},
                                    Batch::Shape{4, 1, 40, DType::kBF16},
                                    Batch::Shape{2, 2, 16, DType::kBF16}}) {
    for (const Batch::Slice& slice :
         {Batch::Slice{1, 1}, {64, 64}, {65, 65}, {129, 127}, {333, 3}}) {
      for (const float softcap : {0.0f, 0.7f}) {
        Batch batch(shape, {{100, 7}, slice}, VerticalSlashRule(), 1);
        batch.SoftCap(softcap);
        const SelectArgs& args = batch.args();
        const SliceRows rows =
            SliceRows{1, 7, slice.rows, slice.length - slice.rows}.Last(64);
        for (int head = 0; head < shape.kv_heads; ++head) {
          SCOPED_TRACE(::testing::Message() << slice.length << ", " << head);
          const OracleSums expected = OracleAttentionSums(
              args, {1, rows.first_row, rows.first_position, rows.rows}, head);
          LastRowScratch scratch;
          AttentionSums sums;
          LastRowSums(
              SelectionKernelsFor(AvailableSimdLevel(SimdLevel::kAvx512)), args,
              rows, head, scratch, sums);
          EXPECT_LT(Error(sums.columns, expected.by_key), 1e-5);
          EXPECT_LT(Error(sums.diagonals, expected.by_distance), 1e-5);
          // Every row's weights are 1 together.
          const double weight = rows.rows * (shape.heads / shape.kv_heads);
          EXPECT_NEAR(std::accumulate(sums.diagonals.begin(),
                                      sums.diagonals.end(), 0.0),
                      weight, 1e-4 * weight);
        }
      }
    }
  }
}

}  // namespace
}  // namespace sparseserve::cpu
