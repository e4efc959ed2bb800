#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// What the host is to know of a step when it ends: tokens, lengths of lists.
// Kernels leave it on the device; it comes to page-locked memory in one copy,
// without which nothing waits for the host. The same sizes, added in the same
// order, lie at the same places in every step, as StepArrays has it. Keeps its
// memory between steps. One thread.
class StepResults {
 public:
  explicit StepResults(CUstream_st* stream) : stream_(stream) {}
  StepResults(const StepResults&) = delete;
  StepResults& operator=(const StepResults&) = delete;
  ~StepResults();

  // Forgets the last step's. REQUIRES: nothing that uses them is under way.
  void Begin();

  // Room on the device for `count` elements until Begin(), 256-byte aligned,
  // holding anything. Deliver() calls `use` with what is then there. Null if
  // there are none, or on an error, which status() then says.
  template <typename T>
  T* Add(int64_t count, std::function<void(const T*)> use) {
    return reinterpret_cast<T*>(
        AddBytes(count * sizeof(T), [use = std::move(use)](const void* found) {
          use(static_cast<const T*>(found));
        }));
  }

  // Queues the copies to the host, behind what was queued before.
  absl::Status Fetch();
  // REQUIRES: the copies are done.
  void Deliver();

  // The first error since Begin().
  const absl::Status& status() const { return status_; }

 private:
  // Memory on either side, of the same layout.
  struct Chunk {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
    size_t bytes = 0;
    size_t used = 0;
  };
  struct Result {
    const std::byte* host = nullptr;
    std::function<void(const void*)> use;
  };

  std::byte* AddBytes(size_t bytes, std::function<void(const void*)> use);
  absl::Status AddChunk(size_t bytes);

  CUstream_st* stream_;
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;  // the one that is being filled
  std::vector<Result> results_;
  absl::Status status_;
};

}  // namespace sparseserve::cuda
