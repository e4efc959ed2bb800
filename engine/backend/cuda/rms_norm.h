#pragma once

// Norms of rows, on a GPU. No CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// All memory is the device's, 16-byte aligned; columns are a multiple of 8.

struct RmsNormArgs {
  std::int32_t rows = 0;  // of the output
  std::int32_t columns = 0;
  const float* input = nullptr;  // [any, columns]
  // [rows]: which rows of the input; null: the first ones.
  const std::int32_t* input_rows = nullptr;
  const float* gain = nullptr;  // [columns]
  float epsilon = 0.0f;
  void* output = nullptr;  // bf16 [rows, columns]
};

// output[r, c] = input[r, c] / sqrt(mean_c(input[r, c]^2) + epsilon) * gain[c]
LaunchStatus LaunchRmsNorm(const RmsNormArgs& args, CUstream_st* stream);

struct AddRmsNormArgs {
  std::int32_t rows = 0;
  std::int32_t columns = 0;
  const void* input = nullptr;  // bf16 [rows, columns]
  const float* gain = nullptr;  // [columns]
  float epsilon = 0.0f;
  float* output = nullptr;  // [rows, columns]
};

// Likewise, but output +=.
LaunchStatus LaunchAddRmsNorm(const AddRmsNormArgs& args, CUstream_st* stream);

}  // namespace sparseserve::cuda
