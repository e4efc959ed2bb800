#pragma once

// What is applied to elements one by one, on a GPU: gated activations of MLPs,
// and the cap of logits, as Backend::SwiGlu, GeGlu and SoftCap define them.
// Pointers are the device's unless a comment says otherwise. No CUDA header is
// needed here.

#include <cstdint>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

struct GatedActivationArgs {
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // of the output; a multiple of 8
  // bf16 [rows, 2 * columns], the gate first; 16-byte aligned
  const void* gate_up = nullptr;
  void* output = nullptr;  // bf16 [rows, columns], 16-byte aligned
};

// Each queues a launch and returns; may be captured in a CUDA graph. An error
// names the argument that is out of range. Arithmetic is f32.

// output = silu(gate) * up
LaunchStatus LaunchSwiGlu(const GatedActivationArgs& args, CUstream_st* stream);
// output = gelu(gate) * up, gelu with tanh
LaunchStatus LaunchGeGlu(const GatedActivationArgs& args, CUstream_st* stream);

struct SoftCapArgs {
  float cap = 0.0f;         // above 0
  std::int64_t count = 0;   // of values, up to 2^40
  float* values = nullptr;  // [count], 16-byte aligned
};

// x becomes cap * tanh(x / cap), in place.
LaunchStatus LaunchSoftCap(const SoftCapArgs& args, CUstream_st* stream);

}  // namespace sparseserve::cuda
