#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/decode_attention.cuh"
#include "engine/backend/cuda/decode_attention.h"

namespace sparseserve::cuda {
namespace {

// Of keys and values on their way, for each thread block: two thread blocks of
// the larger fill a multiprocessor of compute capability 9.0; the smaller fits
// where a thread block may have 99 KB.
constexpr int kLongRing = 96 * 1024;
constexpr int kShortRing = 64 * 1024;

template <int kHeadDim, int kRingBytes>
constexpr int SharedBytes() {
  return sizeof(DecodeShared<kHeadDim, kRingBytes>);
}

// Allows a kernel its shared memory; how many thread blocks of it a
// multiprocessor runs at once.
template <class State, int kRingBytes>
LaunchStatus Prepare(int* resident) {
  constexpr auto kKernel = DecodeAttentionKernel<State, kRingBytes>;
  constexpr int kBytes = SharedBytes<State::kHeadDim, kRingBytes>();
  if (auto status = StatusOf(
          cudaFuncSetAttribute(
              kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
          "shared memory of decode attention");
      !status.ok()) {
    return status;
  }
  return StatusOf(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                      resident, kKernel, kDecodeThreads, kBytes),
                  "occupancy of decode attention");
}

// Of few and of many heads alike.
template <int kHeadDim, int kRingBytes>
LaunchStatus PrepareWidth(int* resident) {
  int few = 0, many = 0;
  if (auto status = Prepare<PairState<kHeadDim, 1>, kRingBytes>(&few);
      !status.ok()) {
    return status;
  }
  if (auto status = Prepare<PairState<kHeadDim, 2>, kRingBytes>(&many);
      !status.ok()) {
    return status;
  }
  *resident = std::min(few, many);
  return LaunchStatus();
}

template <int kRingBytes>
LaunchStatus PrepareWidths(int (&resident)[2]) {
  if (auto status = PrepareWidth<64, kRingBytes>(&resident[0]); !status.ok()) {
    return status;
  }
  return PrepareWidth<128, kRingBytes>(&resident[1]);
}

struct Device {
  int multiprocessors = 0;
  bool long_ring = false;
  int resident[2] = {};  // thread blocks a multiprocessor, by head_dim
};

LaunchStatus PrepareDevice(Device* found) {
  int device = 0, major = 0, minor = 0, bytes = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (major < 8) {
    return LaunchStatus::Error("the device has compute capability " +
                               std::to_string(major) + "." +
                               std::to_string(minor) + "; needs at least 8.0");
  }
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                         device);
  if (auto status = StatusOf(
          cudaDeviceGetAttribute(&found->multiprocessors,
                                 cudaDevAttrMultiProcessorCount, device),
          "properties of the CUDA device");
      !status.ok()) {
    return status;
  }
  found->long_ring = bytes >= SharedBytes<128, kLongRing>();
  return found->long_ring ? PrepareWidths<kLongRing>(found->resident)
                          : PrepareWidths<kShortRing>(found->resident);
}

// The workspace's arrays lie behind each other: the sums first, since they are
// stored 16 bytes at a time. As wide as the widest head.
constexpr std::int64_t kPartRows = 2 * kDecodeGroup;
constexpr std::int64_t kSumBytes = kPartRows * 128 * sizeof(float);
constexpr std::int64_t kTotalBytes = kPartRows * sizeof(float2);
constexpr std::int64_t kCounterBytes = sizeof(std::int32_t);

DecodeWorkspace WorkspaceAt(void* begin, std::int64_t thread_blocks) {
  char* const bytes = static_cast<char*>(begin);
  DecodeWorkspace workspace;
  workspace.sums = reinterpret_cast<float*>(bytes);
  workspace.totals =
      reinterpret_cast<float2*>(bytes + thread_blocks * kSumBytes);
  workspace.counters = reinterpret_cast<std::int32_t*>(
      bytes + thread_blocks * (kSumBytes + kTotalBytes));
  return workspace;
}

LaunchStatus CheckSequences(const DecodeAttentionArgs& args) {
  const std::int32_t kv_heads = args.kv.kv_heads;
  if (args.heads / kv_heads > kDecodeGroup) {
    return OutOfRange("heads", args.heads, "at most 16 * kv_heads");
  }
  const std::int64_t pairs = std::int64_t{args.sequences} * kv_heads;
  if (args.sequences < 0 || pairs > std::numeric_limits<std::int32_t>::max()) {
    return OutOfRange("sequences", args.sequences,
                      "0 or more, and sequences * kv_heads below 2^31");
  }
  const std::int64_t width = std::int64_t{args.heads} * args.kv.head_dim;
  if (auto status = CheckStride("query_stride", args.query_stride, width);
      !status.ok()) {
    return status;
  }
  return CheckStride("output_stride", args.output_stride, width);
}

LaunchStatus CheckArrays(const DecodeAttentionArgs& args) {
  if (auto status = CheckScale(args.scale); !status.ok()) return status;
  for (const void* pointer :
       {static_cast<const void*>(args.kv.page_tables),
        static_cast<const void*>(args.lengths),
        static_cast<const void*>(args.lists.block_counts)}) {
    if (pointer == nullptr) {
      return LaunchStatus::Error(
          "page_tables, lengths and block_counts must not be null");
    }
  }
  return CheckAligned(
      "queries, keys, values and output",
      {args.queries, args.kv.keys, args.kv.values, args.output});
}

template <int kHeadDim, int kRingBytes>
LaunchStatus Launch(const DecodeWork& work, int thread_blocks,
                    cudaStream_t stream) {
  const auto kernel =
      work.group <= 8
          ? DecodeAttentionKernel<PairState<kHeadDim, 1>, kRingBytes>
          : DecodeAttentionKernel<PairState<kHeadDim, 2>, kRingBytes>;
  return LaunchDependent(kernel,
                         {static_cast<unsigned>(thread_blocks), kDecodeThreads,
                          SharedBytes<kHeadDim, kRingBytes>()},
                         work, stream, "launch of decode attention");
}

}  // namespace

LaunchStatus DecodeAttention::Create(
    std::unique_ptr<DecodeAttention>* created) {
  Device device;
  if (auto status = PrepareDevice(&device); !status.ok()) return status;
  return Create(device.long_ring,
                {{device.multiprocessors * std::max(device.resident[0], 1),
                  device.multiprocessors * std::max(device.resident[1], 1)}},
                created);
}

LaunchStatus DecodeAttention::Create(
    std::int32_t thread_blocks, std::unique_ptr<DecodeAttention>* created) {
  if (thread_blocks < 1 || thread_blocks > 65536) {
    return OutOfRange("thread_blocks", thread_blocks, "1 to 65536");
  }
  Device device;
  if (auto status = PrepareDevice(&device); !status.ok()) return status;
  return Create(device.long_ring, {{thread_blocks, thread_blocks}}, created);
}

LaunchStatus DecodeAttention::Create(
    bool long_ring, ThreadBlocks thread_blocks,
    std::unique_ptr<DecodeAttention>* created) {
  std::unique_ptr<DecodeAttention> attention(
      new DecodeAttention(long_ring, thread_blocks));
  const std::int64_t bytes =
      std::max(thread_blocks.of[0], thread_blocks.of[1]) *
      (kSumBytes + kTotalBytes + kCounterBytes);
  if (auto status =
          StatusOf(cudaMalloc(&attention->workspace_, bytes), "device memory");
      !status.ok()) {
    return status;
  }
  if (auto status = StatusOf(cudaMemset(attention->workspace_, 0, bytes),
                             "clearing counters");
      !status.ok()) {
    return status;
  }
  // Run() may use a stream that does not wait for this one.
  if (auto status =
          StatusOf(cudaStreamSynchronize(nullptr), "clearing counters");
      !status.ok()) {
    return status;
  }
  *created = std::move(attention);
  return LaunchStatus();
}

DecodeAttention::~DecodeAttention() { cudaFree(workspace_); }

LaunchStatus DecodeAttention::Run(const DecodeAttentionArgs& args,
                                  CUstream_st* stream) const {
  if (args.sequences == 0) return LaunchStatus();
  if (auto status = CheckHeads(args.kv, args.heads); !status.ok()) {
    return status;
  }
  if (auto status = CheckSequences(args); !status.ok()) return status;
  if (auto status = CheckArrays(args); !status.ok()) return status;
  const bool wide = args.kv.head_dim == 128;
  const int thread_blocks = thread_blocks_.of[wide ? 1 : 0];
  DecodeWork work;
  work.args = args;
  // Counters are at the same place whichever head width runs.
  work.workspace = WorkspaceAt(
      workspace_, std::max(thread_blocks_.of[0], thread_blocks_.of[1]));
  work.pairs = args.sequences * args.kv.kv_heads;
  work.group = args.heads / args.kv.kv_heads;
  if (long_ring_) {
    return wide ? Launch<128, kLongRing>(work, thread_blocks, stream)
                : Launch<64, kLongRing>(work, thread_blocks, stream);
  }
  return wide ? Launch<128, kShortRing>(work, thread_blocks, stream)
              : Launch<64, kShortRing>(work, thread_blocks, stream);
}

}  // namespace sparseserve::cuda
