#pragma once

// Products by a warpgroup, 128 threads that begin at a multiple of 128: bf16
// factors, float sums in registers. Compute capability 9.0a.
//
// Sums [64 rows, n columns]: of its warp w and lane l a thread holds, for the
// eight columns 8 j ..., sums[4 j + 0 and 1] = row 16 w + l / 4, columns
// 8 j + 2 (l % 4) and the next; sums[4 j + 2 and 3] = the same of 8 rows below.
//
// Order: FenceProducts(); products; CommitProducts(); WaitProducts<...>(). From
// the first product to the wait nothing else may touch their registers, nor
// move across the wait: Pin() keeps the compiler from it.

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/backend/cuda/hopper_copies.cuh"

namespace sparseserve::cuda {

// What wgmma is told of a factor in shared memory that consists of boxes of
// rows x 64 columns (128 bytes) with the 128-byte swizzle, each aligned to 1024
// bytes. Groups of 8 rows are 1024 bytes apart. `box_bytes` is how far the next
// 64 columns are, used only where columns are the product's outer dimension.
__device__ __forceinline__ std::uint64_t DescribeBoxes(
    const void* boxes, std::uint32_t box_bytes) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kEightRows = std::uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows |
         (static_cast<std::uint64_t>(box_bytes >> 4) << 16) |
         ((SharedAddress(boxes) & 0x3ffff) >> 4);
}
// The descriptor of what lies `bytes` behind. REQUIRES: a multiple of 16.
__device__ __forceinline__ std::uint64_t Behind(std::uint64_t descriptor,
                                                std::uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

__device__ __forceinline__ void FenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most the `kGroups` latest commits are still under way.
template <int kGroups>
__device__ __forceinline__ void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
template <int kCount>
__device__ __forceinline__ void Pin(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

#define SPARSESERVE_4(a, i) \
  "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3])
#define SPARSESERVE_16(a, i)                                             \
  SPARSESERVE_4(a, i), SPARSESERVE_4(a, i + 4), SPARSESERVE_4(a, i + 8), \
      SPARSESERVE_4(a, i + 12)

// sums (+)= left [64, 16] * right^T, right [128, 16]; both with 16 columns in
// shared memory. Without `adds` what sums held before is forgotten.
__device__ __forceinline__ void MultiplyByRows(float (&sums)[64],
                                               std::uint64_t left,
                                               std::uint64_t right, bool adds) {
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.b32 adds, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "
      "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "
      "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "
      "%58, %59, %60, %61, %62, %63}, %64, %65, adds, 1, 1, 0, 0;\n"
      "}"
      : SPARSESERVE_16(sums, 0), SPARSESERVE_16(sums, 16),
        SPARSESERVE_16(sums, 32), SPARSESERVE_16(sums, 48)
      : "l"(left), "l"(right), "r"(static_cast<int>(adds)));
}

// sums (+)= left [64, 16] * right, right [16, 128] in shared memory. left: of
// this thread's rows r and r + 8, columns c and c + 1 in the order
// (r, c), (r + 8, c), (r, c + 8), (r + 8, c + 8), c = 2 (l % 4).
__device__ __forceinline__ void MultiplyByColumns(float (&sums)[64],
                                                  const std::uint32_t* left,
                                                  std::uint64_t right,
                                                  bool adds) {
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.b32 adds, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "
      "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "
      "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "
      "%58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, adds, 1, 1, "
      "1;\n"
      "}"
      : SPARSESERVE_16(sums, 0), SPARSESERVE_16(sums, 16),
        SPARSESERVE_16(sums, 32), SPARSESERVE_16(sums, 48)
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),
        "r"(static_cast<int>(adds)));
}
// Likewise, right [16, 64].
__device__ __forceinline__ void MultiplyByColumns(float (&sums)[32],
                                                  const std::uint32_t* left,
                                                  std::uint64_t right,
                                                  bool adds) {
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.b32 adds, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "
      "%30, %31}, {%32, %33, %34, %35}, %36, adds, 1, 1, 1;\n"
      "}"
      : SPARSESERVE_16(sums, 0), SPARSESERVE_16(sums, 16)
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),
        "r"(static_cast<int>(adds)));
}

#undef SPARSESERVE_16
#undef SPARSESERVE_4

}  // namespace sparseserve::cuda
