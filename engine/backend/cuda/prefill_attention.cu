#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/hopper_prefill_attention.h"
#include "engine/backend/cuda/portable_prefill_attention.h"
#include "engine/backend/cuda/prefill_attention.h"

namespace sparseserve::cuda {
namespace {

LaunchStatus CheckTiles(const PrefillAttentionArgs& args) {
  const std::int64_t items = std::int64_t{args.lists.tiles} * args.heads;
  if (items <= std::numeric_limits<std::int32_t>::max()) return LaunchStatus();
  return OutOfRange("tiles * heads", items, "below 2^31");
}

LaunchStatus CheckRows(const PrefillAttentionArgs& args) {
  const std::int64_t width = std::int64_t{args.heads} * args.kv.head_dim;
  if (args.query_rows < 1 ||
      args.query_rows > std::numeric_limits<std::int32_t>::max() - 64) {
    return OutOfRange("query_rows", args.query_rows, "1 to 2^31 - 65");
  }
  if (auto status = CheckStride("query_stride", args.query_stride, width);
      !status.ok()) {
    return status;
  }
  if (auto status = CheckStride("output_stride", args.output_stride, width);
      !status.ok()) {
    return status;
  }
  if (auto status = CheckScale(args.scale); !status.ok()) return status;
  return CheckAligned("queries, keys, values, output and tile_fields",
                      {args.queries, args.kv.keys, args.kv.values, args.output,
                       args.lists.tile_fields});
}

struct Device {
  int capability = 0;  // 90: 9.0
  int multiprocessors = 0;
};

LaunchStatus FindDevice(Device* found) {
  int device = 0, major = 0, minor = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  found->capability = 10 * major + minor;
  return StatusOf(
      cudaDeviceGetAttribute(&found->multiprocessors,
                             cudaDevAttrMultiProcessorCount, device),
      "properties of the CUDA device");
}

LaunchStatus Prepare(PrefillKernel kernel, const Device& device) {
  const bool hopper = kernel == PrefillKernel::kHopper;
  if (hopper ? device.capability != 90 : device.capability < 80) {
    return LaunchStatus::Error(
        "the device has compute capability " +
        std::to_string(device.capability / 10) + "." +
        std::to_string(device.capability % 10) +
        (hopper ? "; needs 9.0" : "; needs at least 8.0"));
  }
  if (!hopper) return PreparePortablePrefill();
  if (auto status = PrepareHopperPrefill(); !status.ok()) return status;
  return PrepareHopperSkippingPrefill();
}

}  // namespace

LaunchStatus PrefillAttention::Create(
    std::unique_ptr<PrefillAttention>* created) {
  Device device;
  if (auto status = FindDevice(&device); !status.ok()) return status;
  return Create(device.capability == 90 ? PrefillKernel::kHopper
                                        : PrefillKernel::kPortable,
                created);
}

LaunchStatus PrefillAttention::Create(
    PrefillKernel kernel, std::unique_ptr<PrefillAttention>* created) {
  Device device;
  if (auto status = FindDevice(&device); !status.ok()) return status;
  if (auto status = Prepare(kernel, device); !status.ok()) return status;
  void* counters = nullptr;
  if (auto status = StatusOf(cudaMalloc(&counters, 8), "device memory");
      !status.ok()) {
    return status;
  }
  created->reset(new PrefillAttention(kernel, device.multiprocessors,
                                      static_cast<std::int32_t*>(counters)));
  if (auto status = StatusOf(cudaMemset(counters, 0, 8), "clearing counters");
      !status.ok()) {
    return status;
  }
  // Run() may use a stream that does not wait for this one.
  return StatusOf(cudaStreamSynchronize(nullptr), "clearing counters");
}

PrefillAttention::~PrefillAttention() { cudaFree(counters_); }

LaunchStatus PrefillAttention::Run(const PrefillAttentionArgs& args,
                                   CUstream_st* stream) const {
  if (args.lists.tiles == 0) return LaunchStatus();
  if (auto status = CheckHeads(args.kv, args.heads); !status.ok()) {
    return status;
  }
  if (auto status = CheckTiles(args); !status.ok()) return status;
  if (auto status = CheckRows(args); !status.ok()) return status;
  if (kernel_ != PrefillKernel::kHopper) {
    return LaunchPortablePrefill(args, stream);
  }
  const auto launch = args.lists.skip_below == nullptr
                          ? LaunchHopperPrefill
                          : LaunchHopperSkippingPrefill;
  return launch(args, multiprocessors_, counters_, stream);
}

}  // namespace sparseserve::cuda
