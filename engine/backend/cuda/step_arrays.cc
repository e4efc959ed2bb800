#include "engine/backend/cuda/step_arrays.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sparseserve::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kChunkBytes = size_t{4} << 20;

size_t Aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

StepArrays::~StepArrays() {
  for (const Chunk& chunk : chunks_) {
    cudaFreeHost(chunk.host);
    cudaFree(chunk.device);
  }
}

void StepArrays::Begin() {
  chunk_ = 0;
  used_ = 0;
  flushed_ = 0;
  copied_.clear();
  status_ = absl::OkStatus();
}

const std::byte* StepArrays::CopyBytesOnce(const void* from, size_t bytes) {
  Copied& copied = copied_[from];
  if (copied.device == nullptr || copied.bytes < bytes) {
    copied = {bytes, CopyBytes(from, bytes)};
  }
  return copied.device;
}

const std::byte* StepArrays::CopyBytes(const void* from, size_t bytes) {
  if (bytes == 0 || !status_.ok()) return nullptr;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].bytes) {
    Note(Flush());
    ++chunk_;
    used_ = 0;
    flushed_ = 0;
  }
  if (chunk_ == chunks_.size()) Note(AddChunk(bytes));
  if (!status_.ok()) return nullptr;
  const Chunk& chunk = chunks_[chunk_];
  std::memcpy(chunk.host + used_, from, bytes);
  const std::byte* to = chunk.device + used_;
  used_ += Aligned(bytes);
  return to;
}

absl::Status StepArrays::Flush() {
  if (!status_.ok()) return status_;
  if (flushed_ == used_) return absl::OkStatus();
  const Chunk& chunk = chunks_[chunk_];
  // The last array's end is rounded up, the chunk's is not.
  const size_t bytes = std::min(used_, chunk.bytes) - flushed_;
  const cudaError_t error =
      cudaMemcpyAsync(chunk.device + flushed_, chunk.host + flushed_, bytes,
                      cudaMemcpyHostToDevice, stream_);
  flushed_ = used_;
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      "copying ", bytes,
      " bytes of a step to the device: ", cudaGetErrorString(error)));
}

void StepArrays::Note(absl::Status status) {
  if (status_.ok() && !status.ok()) status_ = std::move(status);
}

absl::Status StepArrays::AddChunk(size_t bytes) {
  Chunk chunk;
  chunk.bytes = std::max(Aligned(bytes), kChunkBytes);
  cudaError_t error =
      cudaMallocHost(reinterpret_cast<void**>(&chunk.host), chunk.bytes);
  if (error == cudaSuccess) {
    error = cudaMalloc(reinterpret_cast<void**>(&chunk.device), chunk.bytes);
    if (error != cudaSuccess) cudaFreeHost(chunk.host);
  }
  if (error != cudaSuccess) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot allocate ", chunk.bytes,
        " bytes for the arrays of a step: ", cudaGetErrorString(error)));
  }
  chunks_.push_back(chunk);
  return absl::OkStatus();
}

}  // namespace sparseserve::cuda
