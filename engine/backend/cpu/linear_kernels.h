#pragma once

// Products of float rows with stored weights, straight from their blocks.

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/simd_level.h"
#include "engine/tensor/dtype.h"

namespace sparseserve::cpu {

// Weight rows that one call computes at most.
inline constexpr int kStripRows = 8;
// Columns of a weight are a multiple of this, and of its dtype's block.
inline constexpr int kColumnMultiple = 32;

// output[r, n] (+)= sum_k input[r, k] * weight[n, k] for the `rows` weight
// rows of a strip and all input rows. Each sum runs over ascending k in the
// same order whatever the number of rows: results are equal to the bit.
struct LinearStrip {
  const std::byte* weights = nullptr;  // first weight row, in `dtype`
  DType dtype = DType::kF32;
  int64_t row_bytes = 0;         // from one weight row to the next
  int rows = 0;                  // 1 ... kStripRows
  int64_t columns = 0;           // whole blocks, a multiple of kColumnMultiple
  const float* input = nullptr;  // [input_rows, columns]
  int64_t input_stride = 0;      // from one input row to the next
  int64_t input_rows = 0;
  float* output = nullptr;  // [input_rows, rows], rows `output_stride` apart
  int64_t output_stride = 0;
  bool accumulate = false;
  float* scratch = nullptr;  // [kStripRows, columns], 64-byte aligned
};

struct LinearKernels {
  void (*multiply_strip)(const LinearStrip& strip);
  // Expands `columns` elements of one stored row.
  void (*expand_row)(DType dtype, const std::byte* row, int64_t columns,
                     float* output);
};

// The best path up to `level`.
const LinearKernels& LinearKernelsFor(SimdLevel level);

}  // namespace sparseserve::cpu
