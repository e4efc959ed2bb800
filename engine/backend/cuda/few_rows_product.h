#pragma once

// Products of few rows, which are bound by reading the weights, on a GPU. No
// CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// output[rows, outputs] = input[rows, columns] * weight[outputs, columns]^T.
// All memory is the device's, 16-byte aligned, row after row.
struct ProductArgs {
  std::int64_t rows = 0;
  std::int64_t outputs = 0;
  std::int64_t columns = 0;
  const void* input = nullptr;   // bf16
  const void* weight = nullptr;  // bf16
  void* output = nullptr;        // float or bf16
  bool output_is_float = false;
  bool accumulate = false;  // output +=; only of floats
};

// Rows that LaunchFewRowsProduct() takes.
inline constexpr std::int64_t kFewRows = 4;

// `outputs` is any number, `columns` a multiple of 8. The same for the same
// row, whatever other rows there are.
LaunchStatus LaunchFewRowsProduct(const ProductArgs& args, CUstream_st* stream);

}  // namespace sparseserve::cuda
