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

// Likewise, a matrix whose rows come in groups of `group_rows`. A box is the
// same row of `box_groups` groups that follow each other, 64 columns of each;
// it lies at (column, row of the group, group).
struct GroupedMatrix {
  const void* data = nullptr;  // 16-byte aligned
  std::int64_t groups = 0;
  std::int64_t columns = 0;
  std::int64_t row_stride = 0;  // in elements, a multiple of 8
  std::int32_t group_rows = 1;
  std::int32_t box_groups = 1;
};

// An error if the matrix cannot be described or the driver lacks the function.
LaunchStatus EncodeTensorMap(const BoxedMatrix& matrix, CUtensorMap* map);
LaunchStatus EncodeTensorMap(const GroupedMatrix& matrix, CUtensorMap* map);

}  // namespace sparseserve::cuda
