#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/cpu/cpu_weight.h"
#include "engine/backend/cpu/linear_kernels.h"
#include "engine/base/thread_pool.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve::cpu {

// Products straight from stored weights, in float. A row's result is the same
// to the bit whatever rows are beside it. Used by one thread.
class StoredProducts {
 public:
  StoredProducts(const LinearKernels& kernels, ThreadPool& pool);

  // Makes scratch for weights of up to `columns` columns.
  void Reserve(int64_t columns);

  // output = input * weight^T, or += if `accumulate`.
  // REQUIRES: Reserve(weight.columns()).
  void Multiply(const CpuWeight& weight, ConstMatrixView input, bool accumulate,
                MatrixView output);

 private:
  struct alignas(64) CacheLine {
    float values[16];
  };

  const LinearKernels& kernels_;
  ThreadPool& pool_;
  int64_t columns_ = 0;
  std::vector<CacheLine> scratch_;  // [threads, kStripRows, columns_] floats
};

}  // namespace sparseserve::cpu
