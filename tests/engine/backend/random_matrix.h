#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/tensor/dtype.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve {

// The least width from `columns` on that is whole blocks.
int64_t WidthFor(DType dtype, int64_t columns);

// A stored matrix of random bits with sane scales, and what it means. With
// `byte` all that is not a half is that byte.
class RandomMatrix {
 public:
  RandomMatrix(DType dtype, int64_t rows, int64_t columns, uint32_t seed,
               std::optional<int> byte = std::nullopt);

  const StoredMatrix& stored() const { return stored_; }
  // [rows, columns]
  const std::vector<float>& values() const { return values_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<float> values_;
  StoredMatrix stored_;
};

// Of a standard normal distribution.
std::vector<float> RandomFloats(int64_t count, uint32_t seed);

// Largest |actual - exact| relative to the sum of the products' magnitudes, of
// `input` [rows, columns] times the rows of `weight`. Infinity if one is NaN.
double WorstError(const std::vector<float>& weight,
                  const std::vector<double>& input,
                  const std::vector<float>& actual, int64_t columns);
double WorstError(const std::vector<float>& weight,
                  const std::vector<float>& input,
                  const std::vector<float>& actual, int64_t columns);

}  // namespace sparseserve
