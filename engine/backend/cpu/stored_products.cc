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

int64_t RowsPerBlock(int64_t columns) {
  const int64_t row_bytes = columns * static_cast<int64_t>(sizeof(float));
  const int64_t rows = kInputBlockBytes / row_bytes;
  return std::max(rows / kBlockRowMultiple, int64_t{1}) * kBlockRowMultiple;
}

}  // namespace

void StoredProducts::Reserve(int64_t columns) {
  if (columns <= columns_) return;
  static_assert(kColumnMultiple % (sizeof(CacheLine) / sizeof(float)) == 0);
  columns_ = columns;
  scratch_.resize(pool_.threads() * kStripRows * columns * sizeof(float) /
                  sizeof(CacheLine));
}

// Work items are (block of input rows, strip) pairs.
void StoredProducts::Multiply(const CpuWeight& weight,
                              absl::Span<const WeightStrip> strips,
                              ConstMatrixView input, bool accumulate,
                              MatrixView output) {
  SPARSESERVE_CHECK(weight.columns() <= columns_);
  const auto count = static_cast<int64_t>(strips.size());
  const int64_t block_rows = RowsPerBlock(input.columns);
  const int64_t blocks = (input.rows + block_rows - 1) / block_rows;
  const int64_t ranges = pool_.threads() * kRangesPerWorker;
  const int64_t grain = std::max<int64_t>(blocks * count / ranges, 1);
  pool_.ParallelFor(
      blocks * count, grain, [&](int64_t begin, int64_t end, int worker) {
        for (int64_t i = begin; i < end; ++i) {
          const WeightStrip& strip = strips[i % count];
          const int64_t first = i / count * block_rows;
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

}  // namespace sparseserve::cpu
