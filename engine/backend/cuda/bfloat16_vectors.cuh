#pragma once

// Eight elements at a time between memory and registers, 16 bytes an access.

#include <cuda_bf16.h>

#include <cstdint>

namespace sparseserve::cuda {

struct Vector8 {
  float of[8];
};

__device__ __forceinline__ Vector8 ToFloats(const uint4& bits) {
  const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
  Vector8 vector;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    vector.of[2 * i] = __uint_as_float(words[i] << 16);
    vector.of[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return vector;
}

// To the nearest, ties to even.
__device__ __forceinline__ uint4 ToBfloat16s(const Vector8& vector) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair =
        __floats2bfloat162_rn(vector.of[2 * i], vector.of[2 * i + 1]);
    words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ Vector8 Load8(const __nv_bfloat16* from) {
  return ToFloats(*reinterpret_cast<const uint4*>(from));
}
__device__ __forceinline__ Vector8 Load8(const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}
__device__ __forceinline__ void Store8(const Vector8& vector,
                                       __nv_bfloat16* to) {
  *reinterpret_cast<uint4*>(to) = ToBfloat16s(vector);
}
__device__ __forceinline__ void Store8(const Vector8& vector, float* to) {
  const float* v = vector.of;
  reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

}  // namespace sparseserve::cuda
