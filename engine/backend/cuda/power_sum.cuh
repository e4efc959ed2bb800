#pragma once

// Sums of exponentials, as powers of 2, that are joined in any number of steps.

namespace sparseserve::cuda {

// exp2 whose relative error is 2^-22.
__device__ __forceinline__ float PowerOfTwo(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Maximum of some products and the sum of powers of 2 of them behind it, both
// times the factor. A NaN is left in the sum.
struct PowerSum {
  float maximum = -INFINITY;
  float sum = 0.0f;

  // What powers are taken relative to; never infinite below.
  __device__ __forceinline__ static float Reference(float maximum,
                                                    float factor) {
    return maximum == -INFINITY ? 0.0f : maximum * factor;
  }
  __device__ __forceinline__ void Join(const PowerSum& other, float factor) {
    const float greater = fmaxf(maximum, other.maximum);
    const float reference = Reference(greater, factor);
    sum = sum * PowerOfTwo(maximum * factor - reference) +
          other.sum * PowerOfTwo(other.maximum * factor - reference);
    maximum = greater;
  }
};

}  // namespace sparseserve::cuda
