#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/backend/cpu/cpu_weight.h"
#include "engine/backend/cpu/elementwise_kernels.h"
#include "engine/base/thread_pool.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve::cpu {

// Whether this CPU has AMX, as far as the library that computes the products
// may use it. Without AMX, products of bf16 are slower than those of floats:
// AVX-512's instruction multiplies half as many pairs a cycle.
bool HasAmx();

// Products of many rows with bf16 inputs and float sums, by oneDNN. Our own
// workers each compute their share of the rows with a single-threaded
// primitive, so that no second team of threads competes with the pool. Rows
// are computed in chunks of fixed heights, so primitives are made while
// weights are loaded, and never again. A row's result is the same to the bit
// whatever rows are beside it, and however many workers there are. Used by one
// thread.
class Bfloat16Products {
 public:
  Bfloat16Products(const LinearKernels& linear,
                   const ElementwiseKernels& elementwise, ThreadPool& pool);
  ~Bfloat16Products();

  // Memory that packing takes, most of it for good.
  static int64_t PackingBytes(const CpuWeight& weight) {
    return 2 * weight.rows() * weight.columns() *
           static_cast<int64_t>(sizeof(uint16_t));
  }
  // RESOURCE_EXHAUSTED with the reason if memory is short. oneDNN has a
  // primitive for every shape.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(const CpuWeight& weight);

  // output = input * weight^T, or += if `accumulate`.
  void Multiply(const PackedWeight& weight, ConstMatrixView input,
                bool accumulate, MatrixView output);

 private:
  struct Engine;
  struct Shape;

  // Both throw what oneDNN does, and std::bad_alloc.
  std::unique_ptr<PackedWeight> PackOrThrow(const CpuWeight& weight);
  Shape& ShapeFor(int64_t rows, int64_t columns);
  static bool IsUniform(Shape& shape, void* weights);

  const LinearKernels& linear_;
  const ElementwiseKernels& elementwise_;
  ThreadPool& pool_;
  std::unique_ptr<Engine> engine_;
  // By (rows, columns) of the weight; layers share them.
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<Shape>> shapes_;
};

}  // namespace sparseserve::cpu
