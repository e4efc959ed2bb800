#pragma once

// Element-wise functions of rows, on a GPU. No CUDA header is needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

enum class Gate {
  kSilu,      // x / (1 + exp(-x))
  kGeluTanh,  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
};

// All memory is the device's, 16-byte aligned.
struct GatedActivationArgs {
  Gate gate = Gate::kSilu;
  std::int32_t rows = 0;
  std::int32_t columns = 0;       // of the output; a multiple of 8
  const void* gate_up = nullptr;  // bf16 [rows, 2 * columns], the gate first
  void* output = nullptr;         // bf16 [rows, columns]
};

// output = f(gate) * up
LaunchStatus LaunchGatedActivation(const GatedActivationArgs& args,
                                   CUstream_st* stream);

// x becomes cap * tanh(x / cap), in place. `count` is a multiple of 4, cap
// positive.
LaunchStatus LaunchSoftCap(float cap, float* values, std::int64_t count,
                           CUstream_st* stream);

}  // namespace sparseserve::cuda
