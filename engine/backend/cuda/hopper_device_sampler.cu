#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/device_sampler.h"
#include "engine/backend/cuda/device_sampler_rows.h"
#include "engine/backend/cuda/hopper_device_sampler.cuh"

namespace sparseserve::cuda {
namespace {

// As engine/model/sampling_check.cc has it.
constexpr float kLargestChange = 1e6f;

LaunchStatus InRow(std::int32_t row, const LaunchStatus& status) {
  return LaunchStatus::Error("row " + std::to_string(row) + ": " +
                             status.message());
}

LaunchStatus CheckRange(const char* name, float value, float least,
                        float greatest) {
  if (value >= least && value <= greatest) return LaunchStatus();
  return LaunchStatus::Error(
      std::string(name) + " is " + std::to_string(value) + "; must be from " +
      std::to_string(least) + " to " + std::to_string(greatest));
}

LaunchStatus CheckToken(const char* name, std::int32_t token,
                        std::int32_t vocab_size) {
  if (token >= 0 && token < vocab_size) return LaunchStatus();
  return OutOfRange(
      name, token,
      ("a token from 0 to " + std::to_string(vocab_size - 1)).c_str());
}

LaunchStatus CheckTokens(const char* name, const std::int32_t* tokens,
                         std::int32_t count, std::int32_t vocab_size) {
  for (std::int32_t i = 0; i < count; ++i) {
    if (auto status = CheckToken(name, tokens[i], vocab_size); !status.ok()) {
      return status;
    }
  }
  return LaunchStatus();
}

LaunchStatus CheckFilters(const RowSampling& row) {
  constexpr float kMax = std::numeric_limits<float>::max();
  if (auto status = CheckRange("temperature", row.temperature, 0, kMax);
      !status.ok()) {
    return status;
  }
  if (row.top_k < 0) return OutOfRange("top_k", row.top_k, "0 or more");
  if (!(row.top_p > 0 && row.top_p <= 1)) {
    return LaunchStatus::Error("top_p is " + std::to_string(row.top_p) +
                               "; must be above 0 and at most 1");
  }
  return CheckRange("min_p", row.min_p, 0, 1);
}

LaunchStatus CheckPenalties(const RowSampling& row) {
  if (auto status = CheckRange("repetition_penalty", row.repetition_penalty,
                               1 / kLargestChange, kLargestChange);
      !status.ok()) {
    return status;
  }
  if (auto status = CheckRange("presence_penalty", row.presence_penalty,
                               -kLargestChange, kLargestChange);
      !status.ok()) {
    return status;
  }
  return CheckRange("frequency_penalty", row.frequency_penalty, -kLargestChange,
                    kLargestChange);
}

LaunchStatus CheckOptions(const DeviceSampler::Options& options) {
  if (options.vocab_size < 1 ||
      options.vocab_size > DeviceSampler::kMostTokens) {
    return OutOfRange(
        "vocab_size", options.vocab_size,
        ("1 to " + std::to_string(DeviceSampler::kMostTokens)).c_str());
  }
  if (options.max_rows < 1 || options.max_rows > 65535) {
    return OutOfRange("max_rows", options.max_rows, "1 to 65535");
  }
  if (options.max_listed < 0 ||
      options.max_listed > std::numeric_limits<std::int32_t>::max()) {
    return OutOfRange("max_listed", options.max_listed, "0 to 2^31 - 1");
  }
  return LaunchStatus();
}

LaunchStatus CheckDevice() {
  int device = 0, major = 0, minor = 0;
  if (auto status = StatusOf(cudaGetDevice(&device), "no CUDA device");
      !status.ok()) {
    return status;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (major == 9 && minor == 0) return LaunchStatus();
  return LaunchStatus::Error("the device has compute capability " +
                             std::to_string(major) + "." +
                             std::to_string(minor) + "; needs 9.0");
}

}  // namespace

LaunchStatus DeviceSampler::Create(const Options& options,
                                   std::unique_ptr<DeviceSampler>* created) {
  if (auto status = CheckOptions(options); !status.ok()) return status;
  if (auto status = CheckDevice(); !status.ok()) return status;
  std::unique_ptr<DeviceSampler> sampler(new DeviceSampler(options));
  const std::size_t bytes = sampler->HeaderBytes() + 4 * options.max_listed;
  const std::size_t result_bytes = sizeof(SampledRow) * options.max_rows;
  // Another sampler of a larger vocabulary may need more.
  for (const cudaError_t error :
       {cudaFuncSetAttribute(DeviceSamplerKernel,
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             SamplerSharedBytes(kMostTokens)),
        cudaMallocHost(&sampler->staging_, bytes),
        cudaMalloc(&sampler->device_, bytes),
        cudaMalloc(&sampler->results_, result_bytes),
        cudaMemset(sampler->device_, 0, bytes),
        // What no row fills in has a value, too.
        cudaMemset(sampler->results_, 0, result_bytes),
        // Run() may use a stream that does not wait for this one.
        cudaStreamSynchronize(nullptr)}) {
    if (auto status = StatusOf(error, "creating a sampler"); !status.ok()) {
      return status;
    }
  }
  *created = std::move(sampler);
  return LaunchStatus();
}

DeviceSampler::~DeviceSampler() {
  cudaFreeHost(staging_);
  cudaFree(device_);
  cudaFree(results_);
}

std::int64_t DeviceSampler::HeaderBytes() const {
  return std::int64_t{options_.max_rows} * sizeof(PackedRow);
}

LaunchStatus DeviceSampler::Pack(const RowSampling* rows, std::int32_t count) {
  if (count < 0 || count > options_.max_rows) {
    return OutOfRange("count", count,
                      ("0 to " + std::to_string(options_.max_rows)).c_str());
  }
  listed_ = 0;
  // Until all is packed, no row wants a token.
  std::fill_n(reinterpret_cast<PackedRow*>(staging_), options_.max_rows,
              PackedRow());
  for (std::int32_t i = 0; i < count; ++i) {
    if (!rows[i].wants_token) continue;
    const LaunchStatus status = PackRow(rows[i], i);
    if (!status.ok()) {
      std::fill_n(reinterpret_cast<PackedRow*>(staging_), options_.max_rows,
                  PackedRow());
      return InRow(i, status);
    }
  }
  return LaunchStatus();
}

LaunchStatus DeviceSampler::CheckRow(const RowSampling& row) const {
  const std::int32_t vocab_size = options_.vocab_size;
  if (auto status = CheckFilters(row); !status.ok()) return status;
  if (auto status = CheckPenalties(row); !status.ok()) return status;
  const std::int32_t most = std::min(kMostAlternatives, vocab_size);
  if (row.logprobs > most) {
    return OutOfRange("logprobs", row.logprobs,
                      ("at most " + std::to_string(most)).c_str());
  }
  for (std::int32_t i = 0; i < row.logit_biases; ++i) {
    const TokenBias& pair = row.logit_bias[i];
    if (auto status = CheckToken("logit_bias", pair.token, vocab_size);
        !status.ok()) {
      return status;
    }
    if (auto status = CheckRange("logit_bias", pair.bias, -kLargestChange,
                                 kLargestChange);
        !status.ok()) {
      return status;
    }
  }
  if (auto status =
          CheckTokens("banned", row.banned, row.banned_tokens, vocab_size);
      !status.ok()) {
    return status;
  }
  if (auto status =
          CheckTokens("prompt", row.prompt, row.prompt_tokens, vocab_size);
      !status.ok()) {
    return status;
  }
  return CheckTokens("output", row.output, row.output_tokens, vocab_size);
}

LaunchStatus DeviceSampler::PackRow(const RowSampling& row,
                                    std::int32_t index) {
  if (auto status = CheckRow(row); !status.ok()) return status;
  const bool repetition = row.repetition_penalty != 1.0f;
  const bool penalties =
      row.presence_penalty != 0.0f || row.frequency_penalty != 0.0f;
  const std::int32_t prompt = repetition ? row.prompt_tokens : 0;
  const std::int32_t output = repetition || penalties ? row.output_tokens : 0;
  const std::int64_t all = listed_ + std::int64_t{2} * row.logit_biases +
                           row.banned_tokens + std::int64_t{prompt} + output;
  if (all > options_.max_listed) {
    return OutOfRange(
        "listed tokens up to this row", all,
        ("at most " + std::to_string(options_.max_listed)).c_str());
  }
  const auto append = [&](const void* elements, std::int32_t count,
                          std::int64_t width) {
    const ListedRange range = {static_cast<std::int32_t>(listed_), count};
    if (count > 0) {
      std::memcpy(staging_ + HeaderBytes() + 4 * listed_, elements,
                  4 * width * count);
    }
    listed_ += width * count;
    return range;
  };
  static_assert(sizeof(TokenBias) == 8);
  PackedRow packed;
  packed.seed = row.seed;
  packed.draw_index = row.draw_index;
  packed.wants_token = 1;
  packed.top_k = row.top_k;
  packed.logprobs = row.logprobs;
  packed.temperature = row.temperature;
  packed.top_p = row.top_p;
  packed.min_p = row.min_p;
  packed.repetition_penalty = row.repetition_penalty;
  packed.presence_penalty = row.presence_penalty;
  packed.frequency_penalty = row.frequency_penalty;
  packed.biases = append(row.logit_bias, row.logit_biases, 2);
  packed.banned = append(row.banned, row.banned_tokens, 1);
  packed.prompt = append(row.prompt, prompt, 1);
  packed.output = append(row.output, output, 1);
  std::memcpy(staging_ + index * sizeof(PackedRow), &packed, sizeof(packed));
  return LaunchStatus();
}

LaunchStatus DeviceSampler::Upload(CUstream_st* stream) const {
  return StatusOf(
      cudaMemcpyAsync(device_, staging_, HeaderBytes() + 4 * listed_,
                      cudaMemcpyHostToDevice, stream),
      "copying sampling parameters");
}

LaunchStatus DeviceSampler::Run(const float* logits, std::int64_t stride,
                                std::int32_t rows, CUstream_st* stream,
                                SampledRow* results) const {
  if (rows == 0) return LaunchStatus();
  if (rows < 0 || rows > options_.max_rows) {
    return OutOfRange("rows", rows,
                      ("0 to " + std::to_string(options_.max_rows)).c_str());
  }
  if (stride < options_.vocab_size) {
    return OutOfRange("stride", stride, "at least vocab_size");
  }
  if (logits == nullptr) {
    return LaunchStatus::Error("logits must not be null");
  }
  SamplerWork work;
  work.logits = logits;
  work.stride = stride;
  work.vocab_size = options_.vocab_size;
  work.rows = reinterpret_cast<const PackedRow*>(device_);
  work.listed = reinterpret_cast<const std::int32_t*>(device_ + HeaderBytes());
  work.results = results != nullptr ? results : results_;
  DeviceSamplerKernel<<<dim3(kSamplerBlocks, rows), kSamplerThreads,
                        SamplerSharedBytes(options_.vocab_size), stream>>>(
      work);
  return StatusOf(cudaGetLastError(), "launch of sampling");
}

}  // namespace sparseserve::cuda
