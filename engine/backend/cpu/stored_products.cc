#include "engine/backend/cpu/stored_products.h"

#include <algorithm>

#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

// Ranges that a worker gets of a product, so that a late one costs little.
constexpr int64_t kRangesPerWorker = 4;

// Input bytes that a pass over the weight keeps in the second-level cache.
constexpr int64_t kInputBlockBytes = 256 << 10;

// A multiple of every kernel's input tile (3 and 4), so that only the last
// block of rows has a remainder.
constexpr int64_t kBlockRowMultiple = 12;

// Rows that are rounded before they are multiplied, and how many of them a
// worker takes at a time.
constexpr int64_t kRoundedRows = 64;
constexpr int64_t kRoundGrain = 8;

int64_t RowsPerBlock(int64_t columns) {
  const int64_t row_bytes = columns * static_cast<int64_t>(sizeof(float));
  const int64_t rows = kInputBlockBytes / row_bytes;
  return std::max(rows / kBlockRowMultiple, int64_t{1}) * kBlockRowMultiple;
}

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

StoredProducts::StoredProducts(const LinearKernels& kernels,
                               const IntegerKernels* integer, ThreadPool& pool)
    : kernels_(kernels), integer_(integer), pool_(pool) {}

void StoredProducts::Reserve(int64_t columns) {
  if (columns <= columns_) return;
  static_assert(kColumnMultiple % (sizeof(CacheLine) / sizeof(float)) == 0);
  static_assert(kColumnMultiple % kRoundedColumns == 0);
  columns_ = columns;
  scratch_.resize(pool_.threads() * kStripRows * columns * sizeof(float) /
                  sizeof(CacheLine));
  if (integer_ == nullptr) return;
  rounded_values_.resize(kRoundedRows * columns);
  rounded_scales_.resize(kRoundedRows * columns / kRoundedColumns);
  rounded_sums_.resize(rounded_scales_.size());
}

// Work items are (block of input rows, strip) pairs.
void StoredProducts::Multiply(const CpuWeight& weight, ConstMatrixView input,
                              bool accumulate, MatrixView output) {
  SPARSESERVE_CHECK(weight.columns() <= columns_);
  const int64_t strips = static_cast<int64_t>(weight.strips().size());
  const int64_t block_rows = RowsPerBlock(input.columns);
  const int64_t blocks = (input.rows + block_rows - 1) / block_rows;
  const int64_t ranges = pool_.threads() * kRangesPerWorker;
  const int64_t grain = std::max<int64_t>(blocks * strips / ranges, 1);
  pool_.ParallelFor(
      blocks * strips, grain, [&](int64_t begin, int64_t end, int worker) {
        for (int64_t i = begin; i < end; ++i) {
          const WeightStrip& strip = weight.strips()[i % strips];
          const int64_t first = i / strips * block_rows;
          kernels_.multiply_strip(
              {.weights = strip.data,
               .dtype = strip.dtype,
               .row_bytes = weight.RowBytes(strip.dtype),
               .rows = strip.rows,
               .columns = input.columns,
               .input = input.row(first),
               .input_stride = input.columns,
               .input_rows = std::min(block_rows, input.rows - first),
               .output = output.row(first) + strip.first_row,
               .output_stride = output.columns,
               .accumulate = accumulate,
               .scratch = ScratchOf(worker)});
        }
      });
}

void StoredProducts::MultiplyRounded(const CpuWeight& weight,
                                     ConstMatrixView input, bool accumulate,
                                     MatrixView output) {
  if (integer_ == nullptr || !weight.has_integers()) {
    return Multiply(weight, input, accumulate, output);
  }
  SPARSESERVE_CHECK(weight.columns() <= columns_);
  for (int64_t first = 0; first < input.rows; first += kRoundedRows) {
    const int64_t rows = std::min(kRoundedRows, input.rows - first);
    const ConstMatrixView some(input.row(first), rows, input.columns);
    MultiplyStrips(weight, some, Round(some), accumulate,
                   {output.row(first), rows, output.columns});
  }
}

RoundedRows StoredProducts::Round(ConstMatrixView input) {
  const RoundedRows rounded = {.values = rounded_values_.data(),
                               .scales = rounded_scales_.data(),
                               .sums = rounded_sums_.data(),
                               .columns = input.columns};
  pool_.ParallelFor(input.rows, kRoundGrain,
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t row = begin; row < end; ++row) {
                        integer_->round_row(input.row(row), rounded.From(row));
                      }
                    });
  return rounded;
}

int64_t StoredProducts::EndOfRun(const CpuWeight& weight, int64_t begin,
                                 int64_t end) {
  const WeightStrip* strip = &weight.strips()[begin];
  const int64_t strip_bytes = kStripRows * weight.RowBytes(strip->dtype);
  while (++begin < end) {
    const WeightStrip& next = strip[1];
    // Behind a low strip, other rows may begin where its missing ones were.
    if (strip->rows < kStripRows || next.dtype != strip->dtype ||
        next.data != strip->data + strip_bytes) {
      break;
    }
    strip = &next;
  }
  return begin;
}

void StoredProducts::MultiplyStrips(const CpuWeight& weight,
                                    ConstMatrixView input,
                                    const RoundedRows& rounded, bool accumulate,
                                    MatrixView output) {
  const int64_t strips = static_cast<int64_t>(weight.strips().size());
  const int64_t ranges = pool_.threads() * kRangesPerWorker;
  // Whole vectors of rows, as far as matrices begin at multiples of them.
  const int64_t multiple =
      std::max<int64_t>(integer_->rows_at_once / kStripRows, 1);
  const int64_t grain =
      RoundUp(std::max<int64_t>(strips / ranges, 1), multiple);
  pool_.ParallelFor(strips, grain, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end;) {
      const WeightStrip& strip = weight.strips()[i];
      const int64_t row_bytes = weight.RowBytes(strip.dtype);
      float* target = output.data + strip.first_row;
      if (!HasIntegerProducts(strip.dtype)) {
        kernels_.multiply_strip({.weights = strip.data,
                                 .dtype = strip.dtype,
                                 .row_bytes = row_bytes,
                                 .rows = strip.rows,
                                 .columns = input.columns,
                                 .input = input.data,
                                 .input_stride = input.columns,
                                 .input_rows = input.rows,
                                 .output = target,
                                 .output_stride = output.columns,
                                 .accumulate = accumulate,
                                 .scratch = ScratchOf(worker)});
        ++i;
        continue;
      }
      i = EndOfRun(weight, i, end);
      const WeightStrip& last = weight.strips()[i - 1];
      integer_->multiply_strip(
          {.weights = strip.data,
           .dtype = strip.dtype,
           .row_bytes = row_bytes,
           .rows = last.first_row + last.rows - strip.first_row,
           .input = rounded,
           .input_rows = input.rows,
           .output = target,
           .output_stride = output.columns,
           .accumulate = accumulate});
    }
  });
}

}  // namespace sparseserve::cpu
