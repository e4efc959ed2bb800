#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/gated_activation.h"

namespace sparseserve::cuda {
namespace {

constexpr int kThreads = 256;

struct Silu {
  static __device__ __forceinline__ float Of(float x) {
    return __fdividef(x, 1.0f + __expf(-x));
  }
};

// (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which keeps its precision where
// tanh(u) is near -1.
struct Gelu {
  static __device__ __forceinline__ float Of(float x) {
    constexpr float kTwiceRoot = 1.59576912f;  // 2 sqrt(2 / pi)
    const float twice_u = kTwiceRoot * x * (1.0f + 0.044715f * x * x);
    return __fdividef(x, 1.0f + __expf(-twice_u));
  }
};

struct GatedWork {
  const __nv_bfloat16* gate_up;
  __nv_bfloat16* output;
  std::int32_t columns;
  std::int32_t row_blocks;  // thread blocks of a row
};

// A thread 8 elements: 4 bytes read and 2 written for each.
template <class Activation>
__global__ void __launch_bounds__(kThreads) GatedKernel(GatedWork work) {
  LetDependentsStart();
  const std::int64_t row = blockIdx.x / work.row_blocks;
  const int block = static_cast<int>(blockIdx.x % work.row_blocks);
  const int i = (block * static_cast<int>(blockDim.x) + threadIdx.x) * 8;
  if (i >= work.columns) return;
  const __nv_bfloat16* const gate = work.gate_up + row * 2 * work.columns + i;
  WaitForDependency();
  const Vector8 gates = Load8(gate);
  Vector8 values = Load8(gate + work.columns);
#pragma unroll
  for (int j = 0; j < 8; ++j) values.of[j] *= Activation::Of(gates.of[j]);
  Store8(values, work.output + row * work.columns + i);
}

template <class Activation>
LaunchStatus Launch(const GatedActivationArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return LaunchStatus();
  if (args.rows < 0) return OutOfRange("rows", args.rows, "0 or more");
  if (auto status = CheckColumns(args.columns,
                                 std::numeric_limits<std::int32_t>::max() / 4);
      !status.ok()) {
    return status;
  }
  if (auto status =
          CheckAligned("gate_up and output", {args.gate_up, args.output});
      !status.ok()) {
    return status;
  }
  const std::int32_t vectors = args.columns / 8;
  LaunchShape shape;
  shape.threads = WholeWarps(vectors, kThreads);
  const std::int32_t row_blocks =
      (vectors + static_cast<std::int32_t>(shape.threads) - 1) /
      static_cast<std::int32_t>(shape.threads);
  const std::int64_t blocks = std::int64_t{args.rows} * row_blocks;
  if (blocks > std::numeric_limits<std::int32_t>::max()) {
    return OutOfRange("rows", args.rows, "such that rows * columns < 2^42");
  }
  shape.thread_blocks = static_cast<unsigned>(blocks);
  return LaunchDependent(
      GatedKernel<Activation>, shape,
      GatedWork{static_cast<const __nv_bfloat16*>(args.gate_up),
                static_cast<__nv_bfloat16*>(args.output), args.columns,
                row_blocks},
      stream, "launch of a gated activation");
}

__device__ __forceinline__ float Capped(const SoftCapArgs& args, float x) {
  return args.cap * tanhf(x / args.cap);
}

// A thread 4 elements; the last ones one by one.
__global__ void __launch_bounds__(kThreads) SoftCapKernel(SoftCapArgs args) {
  LetDependentsStart();
  WaitForDependency();
  const std::int64_t i =
      (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4;
  if (i + 4 <= args.count) {
    float4* const at = reinterpret_cast<float4*>(args.values + i);
    const float4 x = *at;
    *at = make_float4(Capped(args, x.x), Capped(args, x.y), Capped(args, x.z),
                      Capped(args, x.w));
    return;
  }
  for (std::int64_t j = i; j < args.count; ++j) {
    args.values[j] = Capped(args, args.values[j]);
  }
}

}  // namespace

LaunchStatus LaunchSwiGlu(const GatedActivationArgs& args,
                          CUstream_st* stream) {
  return Launch<Silu>(args, stream);
}

LaunchStatus LaunchGeGlu(const GatedActivationArgs& args, CUstream_st* stream) {
  return Launch<Gelu>(args, stream);
}

LaunchStatus LaunchSoftCap(const SoftCapArgs& args, CUstream_st* stream) {
  if (args.count == 0) return LaunchStatus();
  if (args.count < 0 || args.count > (std::int64_t{1} << 40)) {
    return OutOfRange("count", args.count, "0 to 2^40");
  }
  if (!(args.cap > 0.0f)) {
    return LaunchStatus::Error("cap is " + std::to_string(args.cap) +
                               "; must be above 0");
  }
  if (auto status = CheckAligned("values", {args.values}); !status.ok()) {
    return status;
  }
  constexpr std::int64_t kElements = std::int64_t{kThreads} * 4;
  LaunchShape shape;
  shape.threads = kThreads;
  shape.thread_blocks =
      static_cast<unsigned>((args.count + kElements - 1) / kElements);
  return LaunchDependent(SoftCapKernel, shape, args, stream,
                         "launch of the soft cap");
}

}  // namespace sparseserve::cuda
