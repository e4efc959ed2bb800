#pragma once

#include <cuda.h>

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

namespace sparseserve::cuda {

// A bf16 matrix in device memory of which boxes of 64 rows x 64 columns (128
// bytes) are copied into shared memory, with the 128-byte swizzle that wgmma
// reads: the 16-byte column c of row r lies at column c ^ (r % 8). What is
// outside of the matrix arrives as zeros and counts as bytes that arrived.
struct BoxedMatrix {
  const void* data = nullptr;  // 16-byte aligned
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t row_stride = 0;  // in elements, a multiple of 8
};

// An error if the matrix cannot be described or the driver lacks the function.
LaunchStatus EncodeTensorMap(const BoxedMatrix& matrix, CUtensorMap* map);

}  // namespace sparseserve::cuda
