#pragma once

// Non-owning views. Whoever made a view keeps its memory alive.

#include <cstddef>
#include <cstdint>

#include "engine/tensor/dtype.h"

namespace sparseserve {

// A stored matrix in file format: `rows` rows of `columns` elements,
// row-major, `columns` a multiple of BlockElements(dtype).
struct StoredMatrix {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
};

// Activations on a device: [rows, columns] of `dtype`, kF32 or kBF16, row after
// row. Only who knows that the memory is the host's may look into it.
struct MatrixView {
  MatrixView() = default;
  MatrixView(float* data, int64_t rows, int64_t columns)
      : MatrixView(reinterpret_cast<std::byte*>(data), DType::kF32, rows,
                   columns) {}
  MatrixView(std::byte* data, DType dtype, int64_t rows, int64_t columns)
      : data(data), dtype(dtype), rows(rows), columns(columns) {}

  // REQUIRES: dtype == kF32.
  float* row(int64_t r) const {
    return reinterpret_cast<float*>(data) + r * columns;
  }

  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
};

struct ConstMatrixView {
  ConstMatrixView() = default;
  ConstMatrixView(const float* data, int64_t rows, int64_t columns)
      : data(reinterpret_cast<const std::byte*>(data)),
        rows(rows),
        columns(columns) {}
  ConstMatrixView(MatrixView view)  // NOLINT: a view converts to const
      : data(view.data),
        dtype(view.dtype),
        rows(view.rows),
        columns(view.columns) {}

  // REQUIRES: dtype == kF32.
  const float* row(int64_t r) const {
    return reinterpret_cast<const float*>(data) + r * columns;
  }

  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
};

}  // namespace sparseserve
