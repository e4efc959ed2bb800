#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/few_rows_product.h"

namespace sparseserve::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
// Weights that a warp takes at a time of one output.
constexpr int kStride = 32 * 8;
constexpr int kUnroll = 4;

__device__ __forceinline__ Bfloat16x8 LoadWeights(const __nv_bfloat16* from) {
  Bfloat16x8 result;
  auto& words = reinterpret_cast<uint4&>(result);
  // Read once: not to be kept in first-level cache, where the input is.
  asm volatile(
      "ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
      : "l"(from));
  return result;
}

// A warp for every `outputs` outputs. Weights do not depend on earlier
// launches, so the first ones are under way before those are done.
template <int rows, int outputs>
__global__ void __launch_bounds__(kThreads) FewRowsProduct(ProductArgs args) {
  const int lane = threadIdx.x % 32;
  const std::int64_t first_output =
      (std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * outputs;
  const std::int64_t columns = args.columns;
  const auto* weight = static_cast<const __nv_bfloat16*>(args.weight);
  const auto* input = static_cast<const __nv_bfloat16*>(args.input);
  const __nv_bfloat16* of[outputs];
#pragma unroll
  for (int o = 0; o < outputs; ++o) {
    of[o] = weight + min(first_output + o, args.outputs - 1) * columns;
  }
  float sums[outputs][rows] = {};
  Bfloat16x8 weights[kUnroll][outputs];
  const auto load = [&](std::int64_t begin) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t column = begin + u * kStride + lane * 8;
      if (column >= columns) continue;
#pragma unroll
      for (int o = 0; o < outputs; ++o) {
        weights[u][o] = LoadWeights(of[o] + column);
      }
    }
  };
  load(0);
  WaitForEarlierLaunches();
  LetNextLaunchBegin();
  for (std::int64_t begin = 0; begin < columns; begin += kUnroll * kStride) {
    if (begin > 0) load(begin);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t column = begin + u * kStride + lane * 8;
      if (column >= columns) continue;
      float w[outputs][8];
#pragma unroll
      for (int o = 0; o < outputs; ++o) ToFloats(weights[u][o], w[o]);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        float x[8];
        ToFloats(LoadBfloat16(input + r * columns + column), x);
#pragma unroll
        for (int o = 0; o < outputs; ++o) {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            sums[o][r] = fmaf(w[o][i], x[i], sums[o][r]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int o = 0; o < outputs; ++o) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      float sum = sums[o][r];
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      }
      const std::int64_t output = first_output + o;
      if (lane != 0 || output >= args.outputs) continue;
      const std::int64_t at = r * args.outputs + output;
      if (!args.output_is_float) {
        static_cast<__nv_bfloat16*>(args.output)[at] = __float2bfloat16_rn(sum);
      } else {
        float* to = static_cast<float*>(args.output) + at;
        *to = args.accumulate ? *to + sum : sum;
      }
    }
  }
}

template <int rows>
LaunchStatus Launch(const ProductArgs& args, cudaStream_t stream) {
  // With few outputs more warps, so that every multiprocessor has some.
  constexpr std::int64_t kManyOutputs = 16384;
  const bool pairs = args.outputs >= kManyOutputs;
  const std::int64_t of_block = kWarps * (pairs ? 2 : 1);
  const auto blocks =
      static_cast<unsigned>((args.outputs + of_block - 1) / of_block);
  return LaunchDependent(
      pairs ? FewRowsProduct<rows, 2> : FewRowsProduct<rows, 1>, blocks,
      kThreads, stream, "product of few rows", args);
}

}  // namespace

LaunchStatus LaunchFewRowsProduct(const ProductArgs& args,
                                  cudaStream_t stream) {
  if (args.accumulate && !args.output_is_float) {
    return LaunchStatus::Error("accumulate needs an output of floats");
  }
  if (LaunchStatus status = CheckRowShape(args.outputs, args.columns);
      !status.ok()) {
    return status;
  }
  switch (args.rows) {
    case 1:
      return Launch<1>(args, stream);
    case 2:
      return Launch<2>(args, stream);
    case 3:
      return Launch<3>(args, stream);
    case 4:
      return Launch<4>(args, stream);
    default:
      return OutOfRange("rows", args.rows, "1 to 4");
  }
}

}  // namespace sparseserve::cuda
