#pragma once

// Products of rows by weights, on a GPU. No CUDA header is needed here.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// output[rows, outputs] = input[rows, columns] * weight[outputs, columns]^T.
// All memory is the device's, 16-byte aligned, row after row.
struct ProductArgs {
  std::int64_t rows = 0;
  std::int64_t outputs = 0;
  std::int64_t columns = 0;      // a multiple of 8
  const void* input = nullptr;   // bf16
  const void* weight = nullptr;  // bf16
  void* output = nullptr;        // float or bf16
  bool output_is_float = false;
  bool accumulate = false;  // output +=; only of floats
};

// A weight that will be multiplied, and how.
struct ProductShape {
  std::int64_t outputs = 0;
  std::int64_t columns = 0;
  bool output_is_float = false;
  bool accumulate = false;
  friend bool operator==(const ProductShape&, const ProductShape&) = default;
};

// Any number of rows: few by our own kernel, more by cuBLASLt. Owns a workspace
// on the device, so at most one Run() may be under way: use one stream.
class MatrixProducts {
 public:
  // Workspace of cuBLASLt.
  static constexpr std::int64_t kWorkspaceBytes = std::int64_t{64} << 20;

  // For the current device. An error says what is missing.
  static LaunchStatus Create(std::unique_ptr<MatrixProducts>* created);
  MatrixProducts(const MatrixProducts&) = delete;
  MatrixProducts& operator=(const MatrixProducts&) = delete;
  ~MatrixProducts();

  // Times the library's best candidates for each shape and for powers of two up
  // to `most_rows`, and keeps the fastest, with weights that are not in cache.
  // Other numbers of rows take the library's first choice, as all do without
  // it. Waits. `progress` may be
  // empty; it is called with 0 ... 1.
  LaunchStatus Tune(const std::vector<ProductShape>& shapes,
                    std::int64_t most_rows, CUstream_st* stream,
                    const std::function<void(double done)>& progress);

  // Queues one product and returns; may be captured in a CUDA graph. An error
  // names the argument that is out of range.
  LaunchStatus Run(const ProductArgs& args, CUstream_st* stream);

 private:
  struct Library;
  explicit MatrixProducts(std::unique_ptr<Library> library);

  std::unique_ptr<Library> library_;
};

}  // namespace sparseserve::cuda
