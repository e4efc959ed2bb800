#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/rms_norm.h"

namespace sparseserve::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

// Of all threads, in one order whatever the device does.
__device__ float SumOfBlock(float value) {
  __shared__ float sums[kWarps];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp];
  return sum;
}

__device__ __forceinline__ void Load8(const float* from, float* to) {
  LoadFloats(from, to);
}
__device__ __forceinline__ void Load8(const __nv_bfloat16* from, float* to) {
  ToFloats(LoadBfloat16(from), to);
}

// 1 / sqrt(mean square + epsilon)
template <typename Element>
__device__ float InverseNorm(const Element* row, int columns, float epsilon) {
  float squares = 0.0f;
  for (int column = threadIdx.x * 8; column < columns; column += kThreads * 8) {
    float values[8];
    Load8(row + column, values);
#pragma unroll
    for (const float value : values) squares = fmaf(value, value, squares);
  }
  return rsqrtf(SumOfBlock(squares) / static_cast<float>(columns) + epsilon);
}

__global__ void __launch_bounds__(kThreads) RmsNorm(RmsNormArgs args) {
  WaitForEarlierLaunches();
  LetNextLaunchBegin();
  const std::int64_t row = blockIdx.x;
  const std::int64_t input_row =
      args.input_rows == nullptr ? row : args.input_rows[row];
  const float* from = args.input + input_row * args.columns;
  auto* to = static_cast<__nv_bfloat16*>(args.output) + row * args.columns;
  const float inverse = InverseNorm(from, args.columns, args.epsilon);
  for (int column = threadIdx.x * 8; column < args.columns;
       column += kThreads * 8) {
    float values[8];
    float gain[8];
    LoadFloats(from + column, values);
    LoadFloats(args.gain + column, gain);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] *= inverse * gain[i];
    Store(ToBfloat16(values), to + column);
  }
}

__global__ void __launch_bounds__(kThreads) AddRmsNorm(AddRmsNormArgs args) {
  WaitForEarlierLaunches();
  LetNextLaunchBegin();
  const std::int64_t row = blockIdx.x;
  const auto* from =
      static_cast<const __nv_bfloat16*>(args.input) + row * args.columns;
  float* to = args.output + row * args.columns;
  const float inverse = InverseNorm(from, args.columns, args.epsilon);
  for (int column = threadIdx.x * 8; column < args.columns;
       column += kThreads * 8) {
    float values[8];
    float gain[8];
    float sums[8];
    Load8(from + column, values);
    LoadFloats(args.gain + column, gain);
    LoadFloats(to + column, sums);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] += values[i] * (inverse * gain[i]);
    StoreFloats(sums, to + column);
  }
}

}  // namespace

LaunchStatus LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return LaunchStatus();
  if (LaunchStatus status = CheckRowShape(args.rows, args.columns);
      !status.ok()) {
    return status;
  }
  return LaunchDependent(RmsNorm, args.rows, kThreads, stream, "rms norm",
                         args);
}

LaunchStatus LaunchAddRmsNorm(const AddRmsNormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return LaunchStatus();
  if (LaunchStatus status = CheckRowShape(args.rows, args.columns);
      !status.ok()) {
    return status;
  }
  return LaunchDependent(AddRmsNorm, args.rows, kThreads, stream,
                         "adding an rms norm", args);
}

}  // namespace sparseserve::cuda
