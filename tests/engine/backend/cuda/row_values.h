#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/engine/backend/cuda/bfloat16_bits.h"

namespace sparseserve::cuda {

// Inputs of row kernels, and how far from a reference in double precision a
// result may be.

inline std::vector<float> RandomFloats(std::int64_t count, float scale,
                                       std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline std::vector<std::uint16_t> RandomBfloat16s(std::int64_t count,
                                                  float scale,
                                                  std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<std::uint16_t> values(count);
  for (std::uint16_t& value : values) value = ToBfloat16(normal(random));
  return values;
}

// `magnitude`: of the terms that were added up, of which f32 loses a share. A
// bf16 has 8 bits, so it may be half of 2^-7 of the expected power of 2 away.
inline bool IsNearBfloat16(double actual, double expected, double magnitude) {
  const double half_unit =
      expected == 0 ? 0 : std::ldexp(1.0, std::ilogb(expected) - 8);
  return std::abs(actual - expected) <= half_unit + magnitude * 4e-6 + 1e-30;
}
inline bool IsNearFloat(double actual, double expected, double magnitude) {
  return std::abs(actual - expected) <= magnitude * 4e-6 + 1e-30;
}

}  // namespace sparseserve::cuda
