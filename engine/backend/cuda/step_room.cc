#include "engine/backend/cuda/step_room.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"

namespace sparseserve::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kChunkBytes = size_t{1} << 20;

size_t Aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

StepRoom::~StepRoom() {
  for (const Chunk& chunk : chunks_) cudaFree(chunk.data);
}

void StepRoom::Begin() {
  chunk_ = 0;
  used_ = 0;
  status_ = absl::OkStatus();
}

std::byte* StepRoom::TakeBytes(size_t bytes) {
  if (bytes == 0 || !status_.ok()) return nullptr;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].bytes) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) status_ = AddChunk(bytes);
  if (!status_.ok()) return nullptr;
  std::byte* const taken = chunks_[chunk_].data + used_;
  used_ += Aligned(bytes);
  return taken;
}

absl::Status StepRoom::AddChunk(size_t bytes) {
  Chunk chunk;
  // A power of two, so that steps that grow do not leave many behind.
  chunk.bytes = std::max(std::bit_ceil(bytes), kChunkBytes);
  const cudaError_t error =
      cudaMalloc(reinterpret_cast<void**>(&chunk.data), chunk.bytes);
  if (error != cudaSuccess) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot allocate ", chunk.bytes,
        " bytes for what a step chooses: ", cudaGetErrorString(error)));
  }
  chunks_.push_back(chunk);
  return absl::OkStatus();
}

}  // namespace sparseserve::cuda
