#pragma once

// Stored matrices to bf16 on a GPU.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/tensor/tensor_view.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Rounds matrices of any stored type to bf16 on some threads, a piece at a time
// into page-locked memory, while the piece before is copied. One thread calls.
class WeightUpload {
 public:
  // `threads` round. RESOURCE_EXHAUSTED if memory is missing.
  static absl::Status Create(int threads, CUstream_st* stream,
                             std::unique_ptr<WeightUpload>* created);
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;
  ~WeightUpload();

  // One below another at `to`, row after row. Returns when the bytes at
  // `stacked` are no longer needed.
  absl::Status Run(absl::Span<const StoredMatrix> stacked, std::byte* to);

 private:
  struct Piece;
  WeightUpload(int threads, CUstream_st* stream);

  absl::Status Copy(const StoredMatrix& matrix, std::byte* to);

  int threads_;
  CUstream_st* stream_;
  std::unique_ptr<Piece[]> pieces_;
  int next_ = 0;
};

}  // namespace sparseserve::cuda
