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

// Activations: [rows, columns] of float, row r at data + r * columns.
struct MatrixView {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;

  float* row(int64_t r) const { return data + r * columns; }
};

struct ConstMatrixView {
  ConstMatrixView() = default;
  ConstMatrixView(const float* data, int64_t rows, int64_t columns)
      : data(data), rows(rows), columns(columns) {}
  ConstMatrixView(MatrixView view)  // NOLINT: a view converts to const
      : data(view.data), rows(view.rows), columns(view.columns) {}

  const float* row(int64_t r) const { return data + r * columns; }

  const float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
};

}  // namespace sparseserve
