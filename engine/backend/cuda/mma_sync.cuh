#pragma once

// Instructions of compute capability 8.0: copies into shared memory that run
// behind, 8 x 8 matrices, products of a warp.

#include <cstdint>

namespace sparseserve::cuda {

// Queues a copy of 16 bytes, or of zeros: then `source` is not read, but must
// be an address.
__device__ __forceinline__ void CopyChunk(std::uint32_t destination,
                                          const void* source, bool exists) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                   destination),
               "l"(source), "r"(exists ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until all but this thread's latest `kPending` commits have arrived.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void LoadMatrices(std::uint32_t address,
                                             std::uint32_t (&m)[4]) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
      : "r"(address)
      : "memory");
}
__device__ __forceinline__ void LoadTransposed(std::uint32_t address,
                                               std::uint32_t (&m)[4]) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
      : "r"(address)
      : "memory");
}

// Of an 8 x 8 matrix of which lane l has row l / 4, columns l % 4 * 2 and the
// next: the same of its transpose.
__device__ __forceinline__ std::uint32_t Transpose(std::uint32_t pair) {
  std::uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
               : "=r"(transposed)
               : "r"(pair));
  return transposed;
}

// sums[0 ... 3] += left [16, 16] * right [16, 8].
__device__ __forceinline__ void Multiply(float* sums, const std::uint32_t* left,
                                         std::uint32_t right_low,
                                         std::uint32_t right_high) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right_low),
        "r"(right_high));
}

}  // namespace sparseserve::cuda
