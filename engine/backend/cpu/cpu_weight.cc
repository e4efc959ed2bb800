#include "engine/backend/cpu/cpu_weight.h"

#include <algorithm>

#include "engine/backend/cpu/integer_kernels.h"
#include "engine/base/check.h"
#include "engine/base/str_cat.h"

namespace sparseserve::cpu {

absl::StatusOr<std::unique_ptr<CpuWeight>> CpuWeight::Create(
    absl::Span<const StoredMatrix> stacked) {
  if (stacked.empty()) {
    return absl::InvalidArgumentError("a weight needs at least one matrix");
  }
  auto weight = std::unique_ptr<CpuWeight>(new CpuWeight());
  weight->columns_ = stacked[0].columns;
  if (weight->columns_ < kColumnMultiple ||
      weight->columns_ % kColumnMultiple != 0) {
    return absl::InvalidArgumentError(StrCat(
        "a weight has ", weight->columns_,
        " columns; the CPU needs a positive multiple of ", kColumnMultiple));
  }
  for (const StoredMatrix& matrix : stacked) {
    if (matrix.columns != weight->columns_ || matrix.rows < 1) {
      return absl::InvalidArgumentError(StrCat(
          "a stacked matrix has ", matrix.rows, " rows of ", matrix.columns,
          " columns; needed: at least one row of ", weight->columns_));
    }
    if (matrix.columns % BlockElements(matrix.dtype) != 0) {
      return absl::InvalidArgumentError(
          StrCat("a weight of ", DTypeName(matrix.dtype), " has ",
                 matrix.columns, " columns, not a multiple of the ",
                 BlockElements(matrix.dtype), " in a block"));
    }
    const int64_t row_bytes = weight->RowBytes(matrix.dtype);
    for (int64_t row = 0; row < matrix.rows; row += kStripRows) {
      const int64_t rows = std::min<int64_t>(kStripRows, matrix.rows - row);
      weight->strips_.push_back({.data = matrix.data + row * row_bytes,
                                 .dtype = matrix.dtype,
                                 .rows = static_cast<int32_t>(rows),
                                 .first_row = weight->rows_ + row});
    }
    weight->rows_ += matrix.rows;
  }
  return weight;
}

int64_t CpuWeight::bytes() const {
  const int64_t strips =
      (strips_.capacity() + rest_.capacity()) * sizeof(WeightStrip);
  return strips + (integers_ == nullptr ? 0 : integers_->bytes()) +
         (packed_ == nullptr ? 0 : packed_->bytes());
}

void CpuWeight::set_integers(std::unique_ptr<PackedIntegers> integers) {
  integers_ = std::move(integers);
  for (const WeightStrip& strip : strips_) {
    if (!HasIntegerProducts(strip.dtype)) rest_.push_back(strip);
  }
}

int64_t CpuWeight::RowBytes(DType dtype) const {
  return columns_ / BlockElements(dtype) * BlockBytes(dtype);
}

const WeightStrip& CpuWeight::StripOf(int64_t row) const {
  SPARSESERVE_CHECK(row >= 0 && row < rows_);
  const auto after = std::upper_bound(
      strips_.begin(), strips_.end(), row,
      [](int64_t r, const WeightStrip& strip) { return r < strip.first_row; });
  return after[-1];
}

const std::byte* CpuWeight::RowData(int64_t row) const {
  const WeightStrip& strip = StripOf(row);
  return strip.data + (row - strip.first_row) * RowBytes(strip.dtype);
}

}  // namespace sparseserve::cpu
