#pragma once

// Root mean square normalisation of rows, on a GPU: as Backend::RmsNorm and
// Backend::AddRmsNorm define it. Pointers are the device's unless a comment
// says otherwise. No CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Of both below: a row is kept in registers between sum and product.
inline constexpr std::int32_t kMaxNormColumns = 32768;

struct RmsNormArgs {
  std::int32_t rows = 0;         // of the output
  std::int32_t columns = 0;      // a multiple of 8, up to kMaxNormColumns
  const float* input = nullptr;  // [any, columns], 16-byte aligned
  // [rows]: the row of the input that each row of the output is of, such as
  // those whose logits are wanted; null: rows 0 ... rows - 1.
  const std::int32_t* input_rows = nullptr;
  const float* gain = nullptr;  // [columns], 16-byte aligned
  float epsilon = 0.0f;
  void* output = nullptr;  // bf16 [rows, columns], 16-byte aligned
};

struct AddRmsNormArgs {
  std::int32_t rows = 0;
  std::int32_t columns = 0;     // a multiple of 8, up to kMaxNormColumns
  const void* input = nullptr;  // [rows, columns], 16-byte aligned
  bool input_is_bf16 = false;   // else it is f32
  const float* gain = nullptr;  // [columns], 16-byte aligned
  float epsilon = 0.0f;
  float* hidden = nullptr;  // [rows, columns], 16-byte aligned; to add to
};

// Queues output[r, c] = x[c] / sqrt(mean(x^2) + epsilon) * gain[c], x being row
// input_rows[r] of the input, and returns; may be captured in a CUDA graph. An
// error names the argument that is out of range. The same row gives the same
// bits whatever rows are beside it.
LaunchStatus LaunchRmsNorm(const RmsNormArgs& args, CUstream_st* stream);
// Likewise, but hidden +=.
LaunchStatus LaunchAddRmsNorm(const AddRmsNormArgs& args, CUstream_st* stream);

}  // namespace sparseserve::cuda
