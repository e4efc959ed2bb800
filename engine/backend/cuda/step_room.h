#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace sparseserve::cuda {

// Memory of the device alone, for what kernels of a step leave each other. The
// same sizes, taken in the same order, lie at the same places in every step, as
// StepArrays has it. Keeps its memory between steps. One thread.
class StepRoom {
 public:
  StepRoom() = default;
  StepRoom(const StepRoom&) = delete;
  StepRoom& operator=(const StepRoom&) = delete;
  ~StepRoom();

  // Takes back all that was given. REQUIRES: nothing that uses it is under way.
  void Begin();

  // Room for `count` elements until Begin(), 256-byte aligned, holding
  // anything; null if there are none, or on an error, which status() then says.
  template <typename T>
  T* Take(int64_t count) {
    return reinterpret_cast<T*>(TakeBytes(count * sizeof(T)));
  }

  // The first error since Begin().
  const absl::Status& status() const { return status_; }

 private:
  struct Chunk {
    std::byte* data = nullptr;
    size_t bytes = 0;
  };

  std::byte* TakeBytes(size_t bytes);
  absl::Status AddChunk(size_t bytes);

  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;  // the one that is being given away
  size_t used_ = 0;   // of it
  absl::Status status_;
};

}  // namespace sparseserve::cuda
