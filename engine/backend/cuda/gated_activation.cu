#include <algorithm>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/gated_activation.h"

namespace sparseserve::cuda {
namespace {

constexpr int kThreads = 256;

template <Gate gate>
__device__ float Activated(float x) {
  if constexpr (gate == Gate::kSilu) {
    return x / (1.0f + __expf(-x));
  } else {
    constexpr float kRoot = 0.7978845608028654f;  // sqrt(2 / pi)
    return 0.5f * x * (1.0f + tanhf(kRoot * (x + 0.044715f * x * x * x)));
  }
}

template <Gate gate>
__global__ void __launch_bounds__(kThreads)
    GatedRows(GatedActivationArgs args) {
  WaitForEarlierLaunches();
  LetNextLaunchBegin();
  const int column = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (column >= args.columns) return;
  for (std::int64_t row = blockIdx.y; row < args.rows; row += gridDim.y) {
    const auto* from = static_cast<const __nv_bfloat16*>(args.gate_up) +
                       row * 2 * args.columns + column;
    float gates[8];
    float ups[8];
    ToFloats(LoadBfloat16(from), gates);
    ToFloats(LoadBfloat16(from + args.columns), ups);
#pragma unroll
    for (int i = 0; i < 8; ++i) ups[i] *= Activated<gate>(gates[i]);
    Store(ToBfloat16(ups), static_cast<__nv_bfloat16*>(args.output) +
                               row * args.columns + column);
  }
}

__global__ void __launch_bounds__(kThreads)
    SoftCap(float cap, float* values, std::int64_t count) {
  WaitForEarlierLaunches();
  LetNextLaunchBegin();
  const std::int64_t at =
      (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4;
  if (at >= count) return;
  float4 value = *reinterpret_cast<float4*>(values + at);
  value.x = cap * tanhf(value.x / cap);
  value.y = cap * tanhf(value.y / cap);
  value.z = cap * tanhf(value.z / cap);
  value.w = cap * tanhf(value.w / cap);
  *reinterpret_cast<float4*>(values + at) = value;
}

}  // namespace

LaunchStatus LaunchGatedActivation(const GatedActivationArgs& args,
                                   cudaStream_t stream) {
  if (args.rows == 0) return LaunchStatus();
  if (LaunchStatus status = CheckRowShape(args.rows, args.columns);
      !status.ok()) {
    return status;
  }
  const dim3 blocks((args.columns / 8 + kThreads - 1) / kThreads,
                    std::min(args.rows, 65535));
  return LaunchDependent(args.gate == Gate::kSilu ? GatedRows<Gate::kSilu>
                                                  : GatedRows<Gate::kGeluTanh>,
                         blocks, kThreads, stream, "gated activation", args);
}

LaunchStatus LaunchSoftCap(float cap, float* values, std::int64_t count,
                           cudaStream_t stream) {
  if (count == 0) return LaunchStatus();
  if (count < 0 || count % 4 != 0) {
    return OutOfRange("count", count, "a multiple of 4");
  }
  const std::int64_t blocks = (count / 4 + kThreads - 1) / kThreads;
  return LaunchDependent(SoftCap, static_cast<unsigned>(blocks), kThreads,
                         stream, "soft cap", cap, values, count);
}

}  // namespace sparseserve::cuda
