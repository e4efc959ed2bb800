#pragma once

// Products of few rows with a weight, bound by reading it, on a GPU: decoding's
// linear layers. More rows are for matrix products with tiles of rows. Pointers
// are the device's unless a comment says otherwise. No CUDA header is needed
// here.

#include <cstdint>
#include <memory>

#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

inline constexpr std::int32_t kMaxProductRows = 16;

struct FewRowsProductArgs {
  std::int32_t rows = 0;  // 0 to kMaxProductRows
  // bf16 [rows, inputs]; 16-byte aligned, the stride in elements, a multiple of
  // 8 and at least `inputs`.
  const void* input = nullptr;
  std::int64_t input_stride = 0;
  // bf16 [outputs, inputs], row after row; 16-byte aligned.
  const void* weight = nullptr;
  std::int32_t inputs = 0;   // a multiple of 8
  std::int32_t outputs = 0;  // 1 or more
  // [rows, outputs] of the type below; the stride in elements, at least
  // `outputs`.
  void* output = nullptr;
  std::int64_t output_stride = 0;
  bool output_is_bf16 = false;  // else it is f32
  bool accumulates = false;     // output +=; f32 only
};

// Runs on compute capability 8.0 and later. Holds nothing but what it found out
// of the device: launches may be under way on several streams.
class FewRowsProduct {
 public:
  // For the current device. An error names what the device lacks.
  static LaunchStatus Create(std::unique_ptr<FewRowsProduct>* created);

  // Whether a product of so many rows is one of these at all. Other limits are
  // those of FewRowsProductArgs.
  static bool Supports(std::int32_t rows, std::int32_t inputs) {
    return rows <= kMaxProductRows && inputs % 8 == 0;
  }

  // Queues output = input * weight^T, or +=, and returns; may be captured in a
  // CUDA graph. An error names the argument that is out of range. Sums are f32,
  // in an order that follows from `inputs` alone: a row gives the same bits
  // whatever rows are beside it, on every device.
  //
  // The weight is read before the launches queued ahead are done: REQUIRES that
  // none of them writes it.
  LaunchStatus Run(const FewRowsProductArgs& args, CUstream_st* stream) const;

 private:
  FewRowsProduct(std::int32_t multiprocessors, bool large_ring)
      : multiprocessors_(multiprocessors), large_ring_(large_ring) {}

  std::int32_t multiprocessors_;
  bool large_ring_;  // whether a thread block may have all that it would like
};

}  // namespace sparseserve::cuda
