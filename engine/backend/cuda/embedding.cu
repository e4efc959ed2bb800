#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/embedding.h"

namespace sparseserve::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) Embed(EmbeddingArgs args) {
  WaitForEarlierLaunches();
  LetNextLaunchBegin();
  const std::int64_t row = blockIdx.x;
  const auto* from = static_cast<const __nv_bfloat16*>(args.table) +
                     std::int64_t{args.tokens[row]} * args.columns;
  float* to = args.output + row * args.columns;
  for (int column = threadIdx.x * 8; column < args.columns;
       column += kThreads * 8) {
    float values[8];
    ToFloats(LoadBfloat16(from + column), values);
#pragma unroll
    for (float& value : values) value *= args.scale;
    StoreFloats(values, to + column);
  }
}

}  // namespace

LaunchStatus LaunchEmbedding(const EmbeddingArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return LaunchStatus();
  if (LaunchStatus status = CheckRowShape(args.rows, args.columns);
      !status.ok()) {
    return status;
  }
  return LaunchDependent(Embed, args.rows, kThreads, stream, "embedding", args);
}

}  // namespace sparseserve::cuda
