#include "engine/backend/cuda/step_results.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/cuda_status.h"
#include "engine/base/status_macros.h"

namespace sparseserve::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kChunkBytes = size_t{1} << 20;

size_t Aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

StepResults::~StepResults() {
  for (const Chunk& chunk : chunks_) {
    cudaFreeHost(chunk.host);
    cudaFree(chunk.device);
  }
}

void StepResults::Begin() {
  for (Chunk& chunk : chunks_) chunk.used = 0;
  chunk_ = 0;
  results_.clear();
  status_ = absl::OkStatus();
}

std::byte* StepResults::AddBytes(size_t bytes,
                                 std::function<void(const void*)> use) {
  if (bytes == 0 || !status_.ok()) return nullptr;
  while (chunk_ < chunks_.size() &&
         chunks_[chunk_].used + bytes > chunks_[chunk_].bytes) {
    ++chunk_;
  }
  if (chunk_ == chunks_.size()) status_ = AddChunk(bytes);
  if (!status_.ok()) return nullptr;
  Chunk& chunk = chunks_[chunk_];
  const size_t at = chunk.used;
  chunk.used += Aligned(bytes);
  results_.push_back({chunk.host + at, std::move(use)});
  return chunk.device + at;
}

absl::Status StepResults::Fetch() {
  if (!status_.ok()) return status_;
  for (const Chunk& chunk : chunks_) {
    if (chunk.used == 0) continue;
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(chunk.host, chunk.device,
                                   std::min(chunk.used, chunk.bytes),
                                   cudaMemcpyDeviceToHost, stream_),
                   "copying a step's results from the GPU"));
  }
  return absl::OkStatus();
}

void StepResults::Deliver() {
  for (const Result& result : results_) result.use(result.host);
}

absl::Status StepResults::AddChunk(size_t bytes) {
  Chunk chunk;
  // A power of two, so that steps that grow do not leave many behind.
  chunk.bytes = std::max(std::bit_ceil(bytes), kChunkBytes);
  cudaError_t error =
      cudaMallocHost(reinterpret_cast<void**>(&chunk.host), chunk.bytes);
  if (error == cudaSuccess) {
    error = cudaMalloc(reinterpret_cast<void**>(&chunk.device), chunk.bytes);
    if (error != cudaSuccess) cudaFreeHost(chunk.host);
  }
  if (error != cudaSuccess) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot allocate ", chunk.bytes,
        " bytes for the results of a step: ", cudaGetErrorString(error)));
  }
  chunks_.push_back(chunk);
  return absl::OkStatus();
}

}  // namespace sparseserve::cuda
