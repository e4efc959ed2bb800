#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace sparseserve::cuda {

// Eight bf16, as they are loaded and stored.
struct alignas(16) Bfloat16x8 {
  __nv_bfloat162 pairs[4];
};

__device__ __forceinline__ void ToFloats(const Bfloat16x8& from, float* to) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(from.pairs[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

// To the nearest, of two to the even one.
__device__ __forceinline__ Bfloat16x8 ToBfloat16(const float* from) {
  Bfloat16x8 result;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    result.pairs[i] = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
  }
  return result;
}

__device__ __forceinline__ Bfloat16x8 LoadBfloat16(const __nv_bfloat16* from) {
  return *reinterpret_cast<const Bfloat16x8*>(from);
}
__device__ __forceinline__ void Store(const Bfloat16x8& values,
                                      __nv_bfloat16* to) {
  *reinterpret_cast<Bfloat16x8*>(to) = values;
}

__device__ __forceinline__ void LoadFloats(const float* from, float* to) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
  to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}
__device__ __forceinline__ void StoreFloats(const float* from, float* to) {
  reinterpret_cast<float4*>(to)[0] =
      make_float4(from[0], from[1], from[2], from[3]);
  reinterpret_cast<float4*>(to)[1] =
      make_float4(from[4], from[5], from[6], from[7]);
}

}  // namespace sparseserve::cuda
