#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/bfloat16_vectors.cuh"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/embedding.h"

namespace sparseserve::cuda {
namespace {

constexpr int kThreads = 256;

// A thread block a row: 2 bytes read and 4 written for each element.
__global__ void __launch_bounds__(kThreads)
    EmbeddingKernel(EmbeddingArgs args) {
  LetDependentsStart();
  WaitForDependency();
  const std::int64_t row = blockIdx.x;
  const std::int32_t token = args.tokens[row];
  const bool exists = token >= 0 && token < args.vocabulary;
  const auto* from = static_cast<const __nv_bfloat16*>(args.table) +
                     std::int64_t{exists ? token : 0} * args.columns;
  float* const to = args.output + row * args.columns;
  const float scale = exists ? args.scale : __int_as_float(0x7fc00000);
  for (int i = threadIdx.x * 8; i < args.columns; i += blockDim.x * 8) {
    Vector8 vector = Load8(from + i);
#pragma unroll
    for (float& value : vector.of) value *= scale;
    Store8(vector, to + i);
  }
}

}  // namespace

LaunchStatus LaunchEmbedding(const EmbeddingArgs& args, CUstream_st* stream) {
  if (args.rows == 0) return LaunchStatus();
  if (args.rows < 0) return OutOfRange("rows", args.rows, "0 or more");
  if (auto status =
          CheckColumns(args.columns, std::numeric_limits<std::int32_t>::max());
      !status.ok()) {
    return status;
  }
  if (args.vocabulary < 1) {
    return OutOfRange("vocabulary", args.vocabulary, "1 or more");
  }
  if (args.tokens == nullptr) {
    return LaunchStatus::Error("tokens must not be null");
  }
  if (auto status = CheckAligned("table and output", {args.table, args.output});
      !status.ok()) {
    return status;
  }
  LaunchShape shape;
  shape.thread_blocks = args.rows;
  shape.threads = WholeWarps(args.columns / 8, kThreads);
  return LaunchDependent(EmbeddingKernel, shape, args, stream,
                         "launch of embedding");
}

}  // namespace sparseserve::cuda
