#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/rms_norm.h"

namespace sparseserve::cuda {
namespace {

// What both ways have in common: rows of `Input`, normed, go to rows of
// `Output` or are added to them.
template <class Input, class Output>
struct NormWork {
  const Input* input;
  const std::int32_t* input_rows;
  const float* gain;
  Output* output;
  float epsilon;
  std::int32_t columns;
};

// By all threads; the same in each. Warps' sums are added in order.
__device__ __forceinline__ float SumOfBlock(float sum, float* warps) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += warps[warp];
  return total;
}

// A thread block a row, which stays in registers: `kVectors` of 8 elements a
// thread. Input and output pass once; gains come from L2.
template <class Input, class Output, bool kAdds, int kVectors>
__global__ void __launch_bounds__(kVectors == 1 ? 512 : 1024)
    NormKernel(NormWork<Input, Output> work) {
  __shared__ float warps[32];
  LetDependentsStart();
  WaitForDependency();
  const std::int64_t row = blockIdx.x;
  const std::int64_t from =
      work.input_rows == nullptr ? row : work.input_rows[row];
  const Input* const input = work.input + from * work.columns;
  Output* const output = work.output + row * work.columns;
  Vector8 values[kVectors];
  float sum = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = (v * blockDim.x + threadIdx.x) * 8;
    if (i >= work.columns) break;
    values[v] = Load8(input + i);
#pragma unroll
    for (float value : values[v].of) sum += value * value;
  }
  const float mean = SumOfBlock(sum, warps) / work.columns;
  const float factor = 1.0f / sqrtf(mean + work.epsilon);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = (v * blockDim.x + threadIdx.x) * 8;
    if (i >= work.columns) break;
    const Vector8 gain = Load8(work.gain + i);
    Vector8 sums;
    if constexpr (kAdds) sums = Load8(output + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float normed = values[v].of[j] * factor * gain.of[j];
      sums.of[j] = kAdds ? sums.of[j] + normed : normed;
    }
    Store8(sums, output + i);
  }
}

LaunchStatus Check(std::int32_t rows, std::int32_t columns, float epsilon) {
  if (rows < 0) return OutOfRange("rows", rows, "0 or more");
  if (!(epsilon >= 0.0f)) {
    return LaunchStatus::Error("epsilon is " + std::to_string(epsilon) +
                               "; must be 0 or more");
  }
  return CheckColumns(columns, kMaxNormColumns);
}

template <bool kAdds, class Input, class Output>
LaunchStatus Launch(const NormWork<Input, Output>& work, std::int32_t rows,
                    cudaStream_t stream) {
  constexpr const char* kWhat = "launch of RmsNorm";
  const std::int32_t vectors = work.columns / 8;
  LaunchShape shape;
  shape.thread_blocks = rows;
  if (vectors <= 512) {
    shape.threads = WholeWarps(vectors, 512);
    return LaunchDependent(NormKernel<Input, Output, kAdds, 1>, shape, work,
                           stream, kWhat);
  }
  if (vectors <= 1024) {
    shape.threads = WholeWarps((vectors + 1) / 2, 1024);
    return LaunchDependent(NormKernel<Input, Output, kAdds, 2>, shape, work,
                           stream, kWhat);
  }
  shape.threads = WholeWarps((vectors + 3) / 4, 1024);
  return LaunchDependent(NormKernel<Input, Output, kAdds, 4>, shape, work,
                         stream, kWhat);
}

}  // namespace

LaunchStatus LaunchRmsNorm(const RmsNormArgs& args, CUstream_st* stream) {
  if (args.rows == 0) return LaunchStatus();
  if (auto status = Check(args.rows, args.columns, args.epsilon);
      !status.ok()) {
    return status;
  }
  if (auto status = CheckAligned("input, gain and output",
                                 {args.input, args.gain, args.output});
      !status.ok()) {
    return status;
  }
  return Launch<false>(
      NormWork<float, __nv_bfloat16>{args.input, args.input_rows, args.gain,
                                     static_cast<__nv_bfloat16*>(args.output),
                                     args.epsilon, args.columns},
      args.rows, stream);
}

LaunchStatus LaunchAddRmsNorm(const AddRmsNormArgs& args, CUstream_st* stream) {
  if (args.rows == 0) return LaunchStatus();
  if (auto status = Check(args.rows, args.columns, args.epsilon);
      !status.ok()) {
    return status;
  }
  if (auto status = CheckAligned("input, gain and hidden",
                                 {args.input, args.gain, args.hidden});
      !status.ok()) {
    return status;
  }
  if (args.input_is_bf16) {
    return Launch<true>(
        NormWork<__nv_bfloat16, float>{
            static_cast<const __nv_bfloat16*>(args.input), nullptr, args.gain,
            args.hidden, args.epsilon, args.columns},
        args.rows, stream);
  }
  return Launch<true>(
      NormWork<float, float>{static_cast<const float*>(args.input), nullptr,
                             args.gain, args.hidden, args.epsilon,
                             args.columns},
      args.rows, stream);
}

}  // namespace sparseserve::cuda
