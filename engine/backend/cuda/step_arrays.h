#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// The small arrays of a step on their way to the device: positions, page
// tables, lists of blocks. They are gathered in page-locked memory, and what
// was added is copied at once by Flush(). Arrays of the same sizes, added in
// the same order, lie at the same places in every step, so a CUDA graph that
// read them stays valid. Keeps its memory between steps. One thread.
class StepArrays {
 public:
  explicit StepArrays(CUstream_st* stream) : stream_(stream) {}
  StepArrays(const StepArrays&) = delete;
  StepArrays& operator=(const StepArrays&) = delete;
  ~StepArrays();

  // Forgets the last step's. REQUIRES: nothing that uses them is under way.
  void Begin();

  // Where the array will be on the device after Flush(), until Begin(),
  // 256-byte aligned; null if it is empty, or on an error, which status() then
  // says.
  template <typename T>
  const T* Copy(absl::Span<const T> from) {
    return reinterpret_cast<const T*>(
        CopyBytes(from.data(), from.size() * sizeof(T)));
  }
  // Likewise, but copied once in a step if it is asked for again. REQUIRES: its
  // contents stay until Begin().
  template <typename T>
  const T* CopyOnce(absl::Span<const T> from) {
    return reinterpret_cast<const T*>(
        CopyBytesOnce(from.data(), from.size() * sizeof(T)));
  }

  // Queues the copy of what was added since the last one.
  absl::Status Flush();

  // The first error since Begin().
  const absl::Status& status() const { return status_; }

 private:
  // Memory on either side, of the same layout.
  struct Chunk {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
    size_t bytes = 0;
  };

  const std::byte* CopyBytes(const void* from, size_t bytes);
  const std::byte* CopyBytesOnce(const void* from, size_t bytes);
  absl::Status AddChunk(size_t bytes);
  void Note(absl::Status status);

  CUstream_st* stream_;
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;    // the one that is being filled
  size_t used_ = 0;     // of it
  size_t flushed_ = 0;  // of it: what is on its way
  struct Copied {
    size_t bytes = 0;
    const std::byte* device = nullptr;
  };
  std::unordered_map<const void*, Copied> copied_;
  absl::Status status_;
};

}  // namespace sparseserve::cuda
