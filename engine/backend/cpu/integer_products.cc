#include "engine/backend/cpu/integer_products.h"

#include <algorithm>
#include <utility>

#include "engine/backend/cpu/linear_kernels.h"
#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

// Ranges that a worker gets of a product, so that a late one costs little.
constexpr int64_t kRangesPerWorker = 4;

// Rows that are rounded before they are multiplied, and how many of them a
// worker takes at a time.
constexpr int64_t kRoundedRows = 64;
constexpr int64_t kRoundGrain = 8;

}  // namespace

int64_t IntegerProducts::PackedBytes(
    absl::Span<const StoredMatrix> stacked) const {
  int64_t bytes = 0;
  for (const StoredMatrix& matrix : stacked) {
    if (!HasIntegerProducts(matrix.dtype)) continue;
    bytes += GroupsOf(matrix.rows) *
             kernels_.packed_bytes(matrix.dtype, matrix.columns);
  }
  return bytes;
}

PackedIntegers IntegerProducts::Pack(absl::Span<const StoredMatrix> stacked,
                                     Buffer memory) const {
  SPARSESERVE_CHECK(memory.bytes() == PackedBytes(stacked));
  std::vector<PackedIntegers::Run> runs;
  std::byte* next = memory.data();
  int64_t first_row = 0;
  for (const StoredMatrix& matrix : stacked) {
    const int64_t first_of_matrix =
        std::exchange(first_row, first_row + matrix.rows);
    if (!HasIntegerProducts(matrix.dtype)) continue;
    const int64_t row_bytes =
        matrix.columns / BlockElements(matrix.dtype) * BlockBytes(matrix.dtype);
    const int64_t group_bytes =
        kernels_.packed_bytes(matrix.dtype, matrix.columns);
    const int64_t groups = GroupsOf(matrix.rows);
    pool_.ParallelFor(groups, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t group = begin; group < end; ++group) {
        const int64_t row = group * kernels_.rows_at_once;
        StoredMatrix rows = matrix;
        rows.data += row * row_bytes;
        rows.rows = std::min<int64_t>(kernels_.rows_at_once, matrix.rows - row);
        kernels_.pack(rows, next + group * group_bytes);
      }
    });
    runs.push_back(
        {.data = next,
         .dtype = matrix.dtype,
         .first_row = first_of_matrix,
         .rows = matrix.rows,
         .first_group =
             runs.empty() ? 0 : runs.back().first_group + runs.back().groups,
         .groups = groups,
         .group_bytes = group_bytes});
    next += groups * group_bytes;
  }
  return {std::move(memory), std::move(runs)};
}

void IntegerProducts::Reserve(int64_t columns) {
  static_assert(kColumnMultiple % kRoundedColumns == 0);
  if (columns <= columns_) return;
  columns_ = columns;
  rounded_values_.resize(kRoundedRows * columns);
  rounded_scales_.resize(kRoundedRows * columns / kRoundedColumns);
  rounded_sums_.resize(rounded_scales_.size());
}

void IntegerProducts::Multiply(const PackedIntegers& weight,
                               ConstMatrixView input, bool accumulate,
                               MatrixView output) {
  SPARSESERVE_CHECK(input.columns <= columns_);
  for (int64_t first = 0; first < input.rows; first += kRoundedRows) {
    const int64_t rows = std::min(kRoundedRows, input.rows - first);
    const IntegerStrip strip = {
        .input = Round({input.row(first), rows, input.columns}),
        .input_rows = rows,
        .output = output.row(first),
        .output_stride = output.columns,
        .accumulate = accumulate};
    const int64_t ranges = pool_.threads() * kRangesPerWorker;
    const int64_t grain = (weight.groups() + ranges - 1) / ranges;
    pool_.ParallelFor(weight.groups(), grain,
                      [&](int64_t begin, int64_t end, int) {
                        MultiplyGroups(weight, begin, end, strip);
                      });
  }
}

void IntegerProducts::MultiplyGroups(const PackedIntegers& weight,
                                     int64_t begin, int64_t end,
                                     IntegerStrip strip) const {
  float* const output = strip.output;
  for (const PackedIntegers::Run& run : weight.runs()) {
    const int64_t first = std::max(begin - run.first_group, int64_t{0});
    const int64_t last = std::min(end - run.first_group, run.groups);
    if (first >= last) continue;
    const int64_t row = first * kernels_.rows_at_once;
    strip.weights = run.data + first * run.group_bytes;
    strip.dtype = run.dtype;
    strip.rows = std::min(last * kernels_.rows_at_once, run.rows) - row;
    strip.output = output + run.first_row + row;
    kernels_.multiply_strip(strip);
  }
}

RoundedRows IntegerProducts::Round(ConstMatrixView input) {
  const RoundedRows rounded = {.values = rounded_values_.data(),
                               .scales = rounded_scales_.data(),
                               .sums = rounded_sums_.data(),
                               .columns = input.columns};
  pool_.ParallelFor(input.rows, kRoundGrain,
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t row = begin; row < end; ++row) {
                        kernels_.round_row(input.row(row), rounded.From(row));
                      }
                    });
  return rounded;
}

}  // namespace sparseserve::cpu
