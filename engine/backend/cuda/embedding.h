#pragma once

// Rows of a table, on a GPU. No CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

struct EmbeddingArgs {
  std::int32_t rows = 0;
  std::int32_t columns = 0;              // a multiple of 8
  const std::int32_t* tokens = nullptr;  // [rows], each a row of the table
  const void* table = nullptr;           // bf16 [any, columns]
  float scale = 1.0f;
  float* output = nullptr;  // [rows, columns]
};

// output[r, :] = table[tokens[r], :] * scale. All memory is the device's,
// 16-byte aligned.
LaunchStatus LaunchEmbedding(const EmbeddingArgs& args, CUstream_st* stream);

}  // namespace sparseserve::cuda
