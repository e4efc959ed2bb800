#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/hopper_prefill_attention.h"
#include "engine/backend/cuda/portable_prefill_attention.h"
#include "engine/backend/cuda/prefill_attention.h"

namespace sparseserve::cuda {
namespace {

LaunchStatus OutOfRange(const char* name, std::int64_t value,
                        const char* range) {
  return LaunchStatus::Error(std::string(name) + " is " +
                             std::to_string(value) + "; must be " + range);
}

bool IsAligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

LaunchStatus CheckHeads(const PrefillAttentionArgs& args) {
  const PagedKv& kv = args.kv;
  if (kv.head_dim != 64 && kv.head_dim != 128) {
    return OutOfRange("head_dim", kv.head_dim, "64 or 128");
  }
  if (kv.kv_heads < 1) return OutOfRange("kv_heads", kv.kv_heads, "at least 1");
  if (args.heads < 1 || args.heads % kv.kv_heads != 0) {
    return OutOfRange("heads", args.heads, "a positive multiple of kv_heads");
  }
  // Rows of the matrix of keys are counted in 32 bits.
  const std::int64_t most_pages =
      std::numeric_limits<std::int32_t>::max() / 64 / kv.kv_heads;
  if (kv.pages < 1 || kv.pages > most_pages) {
    return OutOfRange("pages", kv.pages,
                      ("1 to " + std::to_string(most_pages)).c_str());
  }
  if (std::int64_t{args.lists.tiles} * args.heads >
      std::numeric_limits<std::int32_t>::max()) {
    return OutOfRange("tiles * heads",
                      std::int64_t{args.lists.tiles} * args.heads,
                      "below 2^31");
  }
  return LaunchStatus();
}

LaunchStatus CheckRows(const PrefillAttentionArgs& args) {
  const std::int64_t width = std::int64_t{args.heads} * args.kv.head_dim;
  if (args.query_rows < 1 ||
      args.query_rows > std::numeric_limits<std::int32_t>::max() - 64) {
    return OutOfRange("query_rows", args.query_rows, "1 to 2^31 - 65");
  }
  if (args.query_stride < width || args.query_stride % 8 != 0) {
    return OutOfRange("query_stride", args.query_stride,
                      "a multiple of 8 and at least heads * head_dim");
  }
  if (args.output_stride < width || args.output_stride % 8 != 0) {
    return OutOfRange("output_stride", args.output_stride,
                      "a multiple of 8 and at least heads * head_dim");
  }
  if (!(args.scale > 0.0f)) {
    return LaunchStatus::Error("scale is " + std::to_string(args.scale) +
                               "; must be positive");
  }
  for (const void* pointer :
       {args.queries, args.kv.keys, args.kv.values,
        static_cast<const void*>(args.output),
        static_cast<const void*>(args.lists.tile_fields)}) {
    if (pointer == nullptr || !IsAligned(pointer)) {
      return LaunchStatus::Error(
          "queries, keys, values, output and tile_fields must be 16-byte "
          "aligned and not null");
    }
  }
  return LaunchStatus();
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
  return hopper ? PrepareHopperPrefill() : PreparePortablePrefill();
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
  if (auto status = CheckHeads(args); !status.ok()) return status;
  if (auto status = CheckRows(args); !status.ok()) return status;
  return kernel_ == PrefillKernel::kHopper
             ? LaunchHopperPrefill(args, multiprocessors_, counters_, stream)
             : LaunchPortablePrefill(args, stream);
}

}  // namespace sparseserve::cuda
