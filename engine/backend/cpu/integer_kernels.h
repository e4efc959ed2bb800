#pragma once

// Products of rows that are rounded to 16 bits with quantised weights, in
// integers.

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/simd_level.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve::cpu {

// Columns that share a scale of a rounded row.
inline constexpr int kRoundedColumns = 32;

// Rows x[r, k] = scales[r, k / 32] * values[r, k], each value within +-32767,
// so that a row is off by at most 2^-16 of the largest of 32 neighbours. A
// block that holds an infinity or NaN has a NaN as its scale.
struct RoundedRows {
  // [rows, columns]; of four columns in the order 0, 2, 1, 3.
  int16_t* values = nullptr;
  float* scales = nullptr;  // [rows, columns / 32]
  float* sums = nullptr;    // [rows, columns / 32]: of the 32 rounded elements
  int64_t columns = 0;      // a multiple of kRoundedColumns

  RoundedRows From(int64_t row) const {
    const int64_t blocks = columns / kRoundedColumns;
    return {values + row * columns, scales + row * blocks, sums + row * blocks,
            columns};
  }
};

// output[r, n] (+)= sum_k input[r, k] * weight[n, k] for consecutive weight
// rows of one matrix and all input rows. Sums over 32 columns are exact; they
// are scaled and added in float, in ascending order of k, so that results are
// equal to the bit whatever the number of rows of either kind.
struct IntegerStrip {
  const std::byte* weights = nullptr;  // by pack(), and aligned as there
  DType dtype = DType::kQ4_1;          // REQUIRES: HasIntegerProducts(dtype)
  int64_t rows = 0;
  RoundedRows input;  // as many columns as the weight
  int64_t input_rows = 0;
  float* output = nullptr;  // [input_rows, rows], rows `output_stride` apart
  int64_t output_stride = 0;
  bool accumulate = false;
};

struct IntegerKernels {
  // Weight rows that are multiplied together.
  int rows_at_once;
  // What `rows_at_once` packed rows take, a multiple of 4 * rows_at_once.
  int64_t (*packed_bytes)(DType dtype, int64_t columns);
  // Writes each `rows_at_once` rows, the last of them filled up, as one stream
  // in the order in which they are multiplied: four bytes of every row, then
  // the next four. They need no more bytes than their blocks, but for two of
  // each in formats whose blocks are no multiple of four. `packed` is aligned
  // to 4 * rows_at_once bytes.
  void (*pack)(const StoredMatrix& matrix, std::byte* packed);
  // Rounds one row of rows.columns elements into the first of `rows`.
  void (*round_row)(const float* input, const RoundedRows& rows);
  void (*multiply_strip)(const IntegerStrip& strip);
};

// Whether weights of `dtype` are integers with scales.
bool HasIntegerProducts(DType dtype);

// Whether this CPU has AVX512-VNNI, by which kAvx512 multiplies faster, to the
// same bits.
bool HasVnni();

// The best path up to `level`; null if that has none.
const IntegerKernels* IntegerKernelsFor(SimdLevel level,
                                        bool allow_vnni = true);

}  // namespace sparseserve::cpu
