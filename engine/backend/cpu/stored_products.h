#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/cpu/cpu_weight.h"
#include "engine/backend/cpu/linear_kernels.h"
#include "engine/base/thread_pool.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve::cpu {

// Products in float straight from stored weights. A row's result is the same to
// the bit whatever rows are beside it. Used by one thread.
class StoredProducts {
 public:
  StoredProducts(const LinearKernels& kernels, ThreadPool& pool)
      : kernels_(kernels), pool_(pool) {}

  // Makes scratch for weights of up to `columns` columns.
  void Reserve(int64_t columns);

  // output[:, rows of strips] = input * weight^T, or += if `accumulate`, for
  // some of the weight's strips; other columns stay.
  // REQUIRES: Reserve(weight.columns()).
  void Multiply(const CpuWeight& weight, absl::Span<const WeightStrip> strips,
                ConstMatrixView input, bool accumulate, MatrixView output);

 private:
  struct alignas(64) CacheLine {
    float values[16];
  };

  float* ScratchOf(int worker) {
    return reinterpret_cast<float*>(scratch_.data()) +
           worker * kStripRows * columns_;
  }
  const LinearKernels& kernels_;
  ThreadPool& pool_;
  int64_t columns_ = 0;
  std::vector<CacheLine> scratch_;  // [threads, kStripRows, columns_] floats
};

}  // namespace sparseserve::cpu
