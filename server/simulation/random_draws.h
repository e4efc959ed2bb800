#pragma once

#include <cstdint>
#include <random>

namespace sparseserve {

// Uniform in [0, 1), and the same with every standard library, whose
// distributions differ.
inline double DrawUniform(std::mt19937_64& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

}  // namespace sparseserve
