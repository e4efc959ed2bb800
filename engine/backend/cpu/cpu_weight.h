#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/integer_products.h"
#include "engine/backend/cpu/linear_kernels.h"

namespace sparseserve::cpu {

// Up to kStripRows consecutive rows of one stacked matrix.
struct WeightStrip {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int32_t rows = 0;
  int64_t first_row = 0;  // of the whole weight
};

// A weight converted to bf16 in its products' blocked form.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual int64_t bytes() const = 0;
};

// Stored matrices, used in place where they have no copy: quantised ones may
// have one for products in integers, the whole weight one for prefill.
// Immutable once loaded.
class CpuWeight : public Weight {
 public:
  // INVALID_ARGUMENT for shapes that the kernels cannot take.
  static absl::StatusOr<std::unique_ptr<CpuWeight>> Create(
      absl::Span<const StoredMatrix> stacked);

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  int64_t bytes() const override;

  const std::vector<WeightStrip>& strips() const { return strips_; }
  // Null if no product is in integers.
  const PackedIntegers* integers() const { return integers_.get(); }
  // From then on strips_in_float() leaves out the strips that `integers` has.
  void set_integers(std::unique_ptr<PackedIntegers> integers);
  absl::Span<const WeightStrip> strips_in_float() const {
    return integers_ == nullptr ? strips_ : rest_;
  }
  // Null if every row is to be multiplied straight from the stored blocks.
  const PackedWeight* packed() const { return packed_.get(); }
  void set_packed(std::unique_ptr<PackedWeight> packed) {
    packed_ = std::move(packed);
  }
  int64_t RowBytes(DType dtype) const;
  // The strip that holds `row`, and the row's bytes.
  const WeightStrip& StripOf(int64_t row) const;
  const std::byte* RowData(int64_t row) const;

 private:
  CpuWeight() = default;

  int64_t rows_ = 0;
  int64_t columns_ = 0;
  std::vector<WeightStrip> strips_;
  std::vector<WeightStrip> rest_;  // those that integers_ does not have
  std::unique_ptr<PackedIntegers> integers_;
  std::unique_ptr<PackedWeight> packed_;
};

}  // namespace sparseserve::cpu
