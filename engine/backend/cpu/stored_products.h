#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/cpu/cpu_weight.h"
#include "engine/backend/cpu/integer_kernels.h"
#include "engine/backend/cpu/linear_kernels.h"
#include "engine/base/thread_pool.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve::cpu {

// Products straight from stored weights. A row's result is the same to the bit
// whatever rows are beside it. Used by one thread.
class StoredProducts {
 public:
  // `integer` is null where MultiplyRounded() shall be Multiply().
  StoredProducts(const LinearKernels& kernels, const IntegerKernels* integer,
                 ThreadPool& pool);

  // Makes scratch for weights of up to `columns` columns.
  void Reserve(int64_t columns);

  // output = input * weight^T in float, or += if `accumulate`.
  // REQUIRES: Reserve(weight.columns()).
  void Multiply(const CpuWeight& weight, ConstMatrixView input, bool accumulate,
                MatrixView output);
  // Likewise, but what meets quantised weights is rounded to 16 bits
  // (RoundedRows) and multiplied in integers: several times faster for few
  // rows.
  void MultiplyRounded(const CpuWeight& weight, ConstMatrixView input,
                       bool accumulate, MatrixView output);

 private:
  struct alignas(64) CacheLine {
    float values[16];
  };

  float* ScratchOf(int worker) {
    return reinterpret_cast<float*>(scratch_.data()) +
           worker * kStripRows * columns_;
  }
  // How far the rows of strips from `begin` on follow each other in memory.
  static int64_t EndOfRun(const CpuWeight& weight, int64_t begin, int64_t end);
  // Rounds rows into rounded_values_, ...
  RoundedRows Round(ConstMatrixView input);
  // At most as many input rows as have been rounded.
  void MultiplyStrips(const CpuWeight& weight, ConstMatrixView input,
                      const RoundedRows& rounded, bool accumulate,
                      MatrixView output);

  const LinearKernels& kernels_;
  const IntegerKernels* integer_;
  ThreadPool& pool_;
  int64_t columns_ = 0;
  std::vector<CacheLine> scratch_;  // [threads, kStripRows, columns_] floats
  // RoundedRows of kRoundedRows rows; empty without `integer_`.
  std::vector<int16_t> rounded_values_;
  std::vector<float> rounded_scales_;
  std::vector<float> rounded_sums_;
};

}  // namespace sparseserve::cpu
