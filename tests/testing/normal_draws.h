#pragma once

#include <cstddef>
#include <cstdint>

namespace sparseserve {

// Normally distributed floats, from a table: drawing each anew took half of the
// time of the kernels' tests under sanitizers. They repeat after a prime number
// of draws, so no two blocks of a test begin alike.
class NormalDraws {
 public:
  explicit NormalDraws(uint32_t seed);

  float operator()();

 private:
  size_t next_;
};

}  // namespace sparseserve
