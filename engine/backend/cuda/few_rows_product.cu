#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/dependent_launch.cuh"
#include "engine/backend/cuda/few_rows_product.h"
#include "engine/backend/cuda/mma_sync.cuh"

namespace sparseserve::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
// Inputs that a warp takes at a time; its next ones are kWarps times as many
// further on, so a thread block walks along each row of the weight.
constexpr int kSlab = 64;
// Where a thread's 8 inputs of either half of a slab begin.
constexpr int kHalfSlab = kSlab / 2;
// Of weights on their way, for each thread block: two thread blocks of the
// larger fill a multiprocessor of compute capability 9.0; the smaller fits
// where a thread block may have 99 KB.
constexpr int kLargeRing = 96 * 1024;
constexpr int kSmallRing = 64 * 1024;
constexpr int kChunk = 16;  // bytes of one copy

// Rows of 16 outputs that a warp takes at a time: as many as 8 rows of input,
// so that of what comes from L2 at most a third are inputs.
template <int kTiles>
struct Shape {
  static constexpr int kOutputs = 16 * kTiles;
  static constexpr int kRows = 8 * kTiles;
  static constexpr int kStageBytes = kThreads * kTiles * 4 * kChunk;
  // Sums of all warps, twice: one is written while the other is added up.
  static constexpr int kSumBytes = kWarps * kOutputs * kRows * 4;
  template <int kRingBytes>
  static constexpr int kSharedBytes = kRingBytes + 2 * kSumBytes;
};

// A weight's rows as one warp copies them: steps are pairs of tile and slab, in
// that order. What a thread copies only it reads, so it waits for nobody.
template <int kTiles, int kStages>
class WeightRing {
 public:
  __device__ WeightRing(const FewRowsProductArgs& args, std::uint32_t shared)
      : args_(args),
        shared_(shared + threadIdx.x * kChunk),
        tile_(blockIdx.x),
        slab_(threadIdx.x / 32) {}

  // The next step's copies, or none behind the last; one commit either way.
  __device__ __forceinline__ void Copy() {
    if (std::int64_t{tile_} * Shape<kTiles>::kOutputs < args_.outputs &&
        slab_ * kSlab < args_.inputs) {
      CopyStep();
      Advance();
    }
    CommitCopies();
    write_ = write_ + 1 == kStages ? 0 : write_ + 1;
  }

  // The oldest step's weights: of each tile, half of the slab, and 8 rows, the
  // thread's 8 inputs.
  __device__ __forceinline__ void Take(uint4 (&weights)[kTiles][2][2]) {
    WaitForCopies<kStages - 1>();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int rows = 0; rows < 2; ++rows) {
          uint4& w = weights[tile][half][rows];
          asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)
                       : "r"(Slot(read_, tile, rows, half))
                       : "memory");
        }
      }
    }
    read_ = read_ + 1 == kStages ? 0 : read_ + 1;
  }

 private:
  __device__ __forceinline__ std::uint32_t Slot(int stage, int tile, int rows,
                                                int half) const {
    return shared_ + stage * Shape<kTiles>::kStageBytes +
           ((tile * 2 + rows) * 2 + half) * (kThreads * kChunk);
  }

  __device__ __forceinline__ void CopyStep() {
    const int lane = threadIdx.x % 32;
    const int input = slab_ * kSlab + lane % 4 * 8;
    const auto* const weight = static_cast<const __nv_bfloat16*>(args_.weight);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int rows = 0; rows < 2; ++rows) {
        const std::int64_t output =
            std::int64_t{tile_} * Shape<kTiles>::kOutputs + tile * 16 +
            rows * 8 + lane / 4;
        const __nv_bfloat16* const row =
            weight + (output < args_.outputs ? output : 0) * args_.inputs;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = input + half * kHalfSlab;
          const bool exists = output < args_.outputs && at < args_.inputs;
          CopyChunk(Slot(write_, tile, rows, half), row + (exists ? at : 0),
                    exists);
        }
      }
    }
  }

  __device__ __forceinline__ void Advance() {
    slab_ += kWarps;
    if (slab_ * kSlab < args_.inputs) return;
    slab_ = threadIdx.x / 32;
    tile_ += gridDim.x;
  }

  const FewRowsProductArgs& args_;
  const std::uint32_t shared_;
  int tile_;  // what is copied next
  int slab_;
  int write_ = 0;
  int read_ = 0;
};

// The thread's 8 inputs of both halves of a slab, of one row for each 8 of the
// product's; 0 where there is none.
template <int kTiles>
struct Inputs {
  uint4 of[kTiles][2];

  __device__ __forceinline__ void Load(const FewRowsProductArgs& args,
                                       int slab) {
    const int lane = threadIdx.x % 32;
    const int input = slab * kSlab + lane % 4 * 8;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int row = tile * 8 + lane / 4;
      const auto* const from = static_cast<const __nv_bfloat16*>(args.input) +
                               row * args.input_stride;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = input + half * kHalfSlab;
        of[tile][half] = uint4{};
        if (row < args.rows && at < args.inputs) {
          of[tile][half] = *reinterpret_cast<const uint4*>(from + at);
        }
      }
    }
  }
};

// Which of 16 inputs a thread holds follows from the order of mma; any order
// will do that weights and inputs share. So 8 neighbours are two products' 4.
template <int kTiles>
__device__ __forceinline__ void MultiplySlab(
    const uint4 (&weights)[kTiles][2][2], const Inputs<kTiles>& inputs,
    float (&sums)[kTiles][kTiles][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4& low = weights[tile][half][0];
      const uint4& high = weights[tile][half][1];
      const std::uint32_t first[4] = {low.x, high.x, low.y, high.y};
      const std::uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int rows = 0; rows < kTiles; ++rows) {
        const uint4& input = inputs.of[rows][half];
        Multiply(sums[tile][rows], first, input.x, input.y);
        Multiply(sums[tile][rows], second, input.z, input.w);
      }
    }
  }
}

// What one warp has of a tile goes to [rows][outputs] of its own.
template <int kTiles>
__device__ __forceinline__ void PutSums(const float (&sums)[kTiles][kTiles][4],
                                        float* to) {
  constexpr int kOutputs = Shape<kTiles>::kOutputs;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int rows = 0; rows < kTiles; ++rows) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int output = tile * 16 + i / 2 * 8 + lane / 4;
        const int row = rows * 8 + lane % 4 * 2 + i % 2;
        to[row * kOutputs + output] = sums[tile][rows][i];
      }
    }
  }
}

// Elements of the output that a thread adds up and writes, of one tile.
template <int kTiles>
class TileOutput {
 public:
  __device__ TileOutput(const FewRowsProductArgs& args, int tile)
      : args_(args), first_(std::int64_t{tile} * kOutputs) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      // Early, since it comes from memory.
      added_[i] = args.accumulates && Exists(i) ? Float()[At(i)] : 0.0f;
    }
  }

  // Of all warps, in order.
  __device__ __forceinline__ void Store(const float* warps) const {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (!Exists(i)) continue;
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        sum += warps[warp * kOutputs * kRows + Index(i)];
      }
      sum += added_[i];
      if (args_.output_is_bf16) {
        static_cast<__nv_bfloat16*>(args_.output)[At(i)] =
            __float2bfloat16_rn(sum);
      } else {
        Float()[At(i)] = sum;
      }
    }
  }

 private:
  static constexpr int kOutputs = Shape<kTiles>::kOutputs;
  static constexpr int kRows = Shape<kTiles>::kRows;
  static constexpr int kElements = (kOutputs * kRows + kThreads - 1) / kThreads;

  __device__ static int Index(int i) { return i * kThreads + threadIdx.x; }
  __device__ std::int64_t At(int i) const {
    return Index(i) / kOutputs * args_.output_stride + first_ +
           Index(i) % kOutputs;
  }
  __device__ bool Exists(int i) const {
    return Index(i) / kOutputs < args_.rows &&
           first_ + Index(i) % kOutputs < args_.outputs;
  }
  __device__ float* Float() const { return static_cast<float*>(args_.output); }

  const FewRowsProductArgs& args_;
  const std::int64_t first_;
  float added_[kElements];
};

// Thread blocks take tiles of outputs in turn; warps share the inputs, slab by
// slab. The weight passes once; 16 outputs meet 8 rows of input in one product
// of a warp. Until the dependency resolves, a ring of weights is filled.
template <int kTiles, int kRingBytes>
__global__ void __launch_bounds__(kThreads, 2)
    FewRowsKernel(const __grid_constant__ FewRowsProductArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kStages = kRingBytes / Shape<kTiles>::kStageBytes;
  LetDependentsStart();
  WeightRing<kTiles, kStages> ring(
      args, static_cast<std::uint32_t>(__cvta_generic_to_shared(shared)));
#pragma unroll 1
  for (int stage = 0; stage < kStages; ++stage) ring.Copy();
  WaitForDependency();

  const int warp = threadIdx.x / 32;
  float* const all_sums = reinterpret_cast<float*>(shared + kRingBytes);
  int turn = 0;
  for (int tile = blockIdx.x;
       std::int64_t{tile} * Shape<kTiles>::kOutputs < args.outputs;
       tile += gridDim.x) {
    const TileOutput<kTiles> output(args, tile);
    float* const block_sums = all_sums + turn * (Shape<kTiles>::kSumBytes / 4);
    float sums[kTiles][kTiles][4] = {};
    Inputs<kTiles> next;
    next.Load(args, warp);
    for (int slab = warp; slab * kSlab < args.inputs; slab += kWarps) {
      const Inputs<kTiles> inputs = next;
      next.Load(args, slab + kWarps);
      uint4 weights[kTiles][2][2];
      ring.Take(weights);
      ring.Copy();
      MultiplySlab<kTiles>(weights, inputs, sums);
    }
    PutSums<kTiles>(
        sums, block_sums + warp * (Shape<kTiles>::kSumBytes / (4 * kWarps)));
    __syncthreads();
    output.Store(block_sums);
    turn ^= 1;
  }
  WaitForCopies<0>();
}

template <int kTiles, int kRingBytes>
LaunchStatus Prepare() {
  return StatusOf(
      cudaFuncSetAttribute(FewRowsKernel<kTiles, kRingBytes>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           Shape<kTiles>::template kSharedBytes<kRingBytes>),
      "shared memory of products of few rows");
}

template <int kTiles, int kRingBytes>
LaunchStatus Launch(const FewRowsProductArgs& args, int multiprocessors,
                    cudaStream_t stream) {
  constexpr int kOutputs = Shape<kTiles>::kOutputs;
  const std::int64_t tiles =
      (std::int64_t{args.outputs} + kOutputs - 1) / kOutputs;
  LaunchShape shape;
  shape.thread_blocks = static_cast<unsigned>(
      std::min<std::int64_t>(tiles, 2 * std::int64_t{multiprocessors}));
  shape.threads = kThreads;
  shape.shared_bytes = Shape<kTiles>::template kSharedBytes<kRingBytes>;
  return LaunchDependent(FewRowsKernel<kTiles, kRingBytes>, shape, args, stream,
                         "launch of a product of few rows");
}

LaunchStatus Check(const FewRowsProductArgs& args) {
  if (args.rows < 0 || args.rows > kMaxProductRows) {
    return OutOfRange("rows", args.rows, "0 to 16");
  }
  if (args.inputs < 8 || args.inputs % 8 != 0 || args.inputs > (1 << 30)) {
    return OutOfRange("inputs", args.inputs, "a multiple of 8, 8 to 2^30");
  }
  if (args.outputs < 1 || args.outputs > (1 << 30)) {
    return OutOfRange("outputs", args.outputs, "1 to 2^30");
  }
  if (args.input_stride < args.inputs || args.input_stride % 8 != 0) {
    return OutOfRange("input_stride", args.input_stride,
                      "a multiple of 8 and at least inputs");
  }
  if (args.output_stride < args.outputs) {
    return OutOfRange("output_stride", args.output_stride, "at least outputs");
  }
  if (args.accumulates && args.output_is_bf16) {
    return LaunchStatus::Error("accumulates is for output in f32 alone");
  }
  if (args.output == nullptr) {
    return LaunchStatus::Error("output must not be null");
  }
  return CheckAligned("input and weight", {args.input, args.weight});
}

}  // namespace

LaunchStatus FewRowsProduct::Create(std::unique_ptr<FewRowsProduct>* created) {
  int device = 0, major = 0, multiprocessors = 0, bytes = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                         device);
  if (auto status = StatusOf(
          cudaDeviceGetAttribute(&multiprocessors,
                                 cudaDevAttrMultiProcessorCount, device),
          "properties of the CUDA device");
      !status.ok()) {
    return status;
  }
  if (major < 8) {
    return LaunchStatus::Error("the device has compute capability " +
                               std::to_string(major) +
                               ".x; needs at least 8.0");
  }
  const bool large_ring = bytes >= Shape<2>::kSharedBytes<kLargeRing>;
  for (const LaunchStatus& status :
       {large_ring ? Prepare<1, kLargeRing>() : Prepare<1, kSmallRing>(),
        large_ring ? Prepare<2, kLargeRing>() : Prepare<2, kSmallRing>()}) {
    if (!status.ok()) return status;
  }
  created->reset(new FewRowsProduct(multiprocessors, large_ring));
  return LaunchStatus();
}

LaunchStatus FewRowsProduct::Run(const FewRowsProductArgs& args,
                                 CUstream_st* stream) const {
  if (args.rows == 0) return LaunchStatus();
  if (auto status = Check(args); !status.ok()) return status;
  if (args.rows <= Shape<1>::kRows) {
    return large_ring_ ? Launch<1, kLargeRing>(args, multiprocessors_, stream)
                       : Launch<1, kSmallRing>(args, multiprocessors_, stream);
  }
  return large_ring_ ? Launch<2, kLargeRing>(args, multiprocessors_, stream)
                     : Launch<2, kSmallRing>(args, multiprocessors_, stream);
}

}  // namespace sparseserve::cuda
