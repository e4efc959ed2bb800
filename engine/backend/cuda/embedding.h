#pragma once

// Rows of an embedding table, on a GPU. Pointers are the device's unless a
// comment says otherwise. No CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

struct EmbeddingArgs {
  std::int32_t rows = 0;
  // [rows]. A token outside of the vocabulary gives a row of NaN: no memory
  // beside the table is read.
  const std::int32_t* tokens = nullptr;
  const void* table = nullptr;  // bf16 [vocabulary, columns], 16-byte aligned
  std::int32_t vocabulary = 0;
  std::int32_t columns = 0;  // a multiple of 8
  float scale = 1.0f;
  float* output = nullptr;  // [rows, columns], 16-byte aligned
};

// Queues output[r, :] = table[tokens[r], :] * scale and returns; may be
// captured in a CUDA graph. An error names the argument that is out of range.
LaunchStatus LaunchEmbedding(const EmbeddingArgs& args, CUstream_st* stream);

}  // namespace sparseserve::cuda
