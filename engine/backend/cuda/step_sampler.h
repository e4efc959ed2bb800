#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/device_sampler.h"
#include "engine/backend/cuda/step_launches.h"
#include "engine/backend/cuda/step_results.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Samples rows of a step: from slices to what DeviceSampler takes, and from
// what it finds to tokens. One thread.
class StepSampler {
 public:
  static constexpr int32_t kMostAlternatives = cuda::kMostAlternatives;
  static constexpr int64_t kMostListedTokens = int64_t{1} << 20;

  // For the current device. FAILED_PRECONDITION says why it cannot sample.
  static absl::StatusOr<std::unique_ptr<StepSampler>> Create(int32_t vocab_size,
                                                             int32_t max_rows);

  // Queues the copy of the parameters, and by way of `launches` a launch, whose
  // results Backend::Sample()'s caller finds once `results` are delivered. Once
  // in a step.
  absl::Status Run(const SampleArgs& args, uint64_t operation,
                   StepLaunches& launches, StepResults& results,
                   CUstream_st* stream);

 private:
  explicit StepSampler(std::unique_ptr<DeviceSampler> sampler)
      : sampler_(std::move(sampler)) {}
  void AddRow(const StepSlice& slice);

  std::unique_ptr<DeviceSampler> sampler_;
  std::vector<RowSampling> rows_;
  std::vector<std::vector<TokenBias>> biases_;  // [rows]
};

}  // namespace sparseserve::cuda
