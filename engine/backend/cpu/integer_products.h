#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/cpu/integer_kernels.h"
#include "engine/base/thread_pool.h"
#include "engine/tensor/buffer.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve::cpu {

// The quantised matrices of a weight in the order in which integer kernels read
// them. Immutable.
class PackedIntegers {
 public:
  // Consecutive rows of one matrix.
  struct Run {
    const std::byte* data = nullptr;
    DType dtype = DType::kQ4_1;
    int64_t first_row = 0;  // of the whole weight
    int64_t rows = 0;
    // Groups are as many rows as are multiplied together.
    int64_t first_group = 0;
    int64_t groups = 0;
    int64_t group_bytes = 0;
  };

  PackedIntegers(Buffer memory, std::vector<Run> runs)
      : memory_(std::move(memory)), runs_(std::move(runs)) {}

  const std::vector<Run>& runs() const { return runs_; }
  int64_t groups() const {
    return runs_.empty() ? 0 : runs_.back().first_group + runs_.back().groups;
  }
  int64_t bytes() const { return memory_.bytes(); }

 private:
  Buffer memory_;
  std::vector<Run> runs_;
};

// Products of rows that are rounded to 16 bits (RoundedRows) with quantised
// weights, in integers: several times faster than in float for few rows. A
// row's result is the same to the bit whatever rows are beside it. Used by one
// thread.
class IntegerProducts {
 public:
  IntegerProducts(const IntegerKernels& kernels, ThreadPool& pool)
      : kernels_(kernels), pool_(pool) {}

  // What Pack() needs for matrices that are stacked to a weight; 0 if none of
  // them HasIntegerProducts().
  int64_t PackedBytes(absl::Span<const StoredMatrix> stacked) const;
  // Into `memory` of so many bytes, aligned to 64.
  PackedIntegers Pack(absl::Span<const StoredMatrix> stacked,
                      Buffer memory) const;

  // Makes scratch for weights of up to `columns` columns.
  void Reserve(int64_t columns);
  // output[:, rows of runs] = input * weight^T, or += if `accumulate`; other
  // columns stay. REQUIRES: Reserve(input.columns).
  void Multiply(const PackedIntegers& weight, ConstMatrixView input,
                bool accumulate, MatrixView output);

 private:
  RoundedRows Round(ConstMatrixView input);
  // `strip` has no weights yet, and the output of the weight's row 0.
  void MultiplyGroups(const PackedIntegers& weight, int64_t begin, int64_t end,
                      IntegerStrip strip) const;
  int64_t GroupsOf(int64_t rows) const {
    return (rows + kernels_.rows_at_once - 1) / kernels_.rows_at_once;
  }

  const IntegerKernels& kernels_;
  ThreadPool& pool_;
  int64_t columns_ = 0;
  // RoundedRows of a pass over the weight.
  std::vector<int16_t> rounded_values_;
  std::vector<float> rounded_scales_;
  std::vector<float> rounded_sums_;
};

}  // namespace sparseserve::cpu
