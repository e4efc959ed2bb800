#pragma once

// Softmax over keys that come 64 or 128 at a time, for the two rows of which a
// thread holds a quarter each: 32 or 64 scores (wgmma.cuh says which).

#include <cuda_bf16.h>

#include <cstdint>

namespace sparseserve::cuda {

__device__ __forceinline__ float ExpBase2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// The four lanes that share a row agree on f of their values.
template <class F>
__device__ __forceinline__ float OverRow(float value, F f) {
  value = f(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return f(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// Keeps scores of the keys that `visible` shows, of 64 keys whose scores begin
// at scores[32 kHalf]: bit k of visible[i] is key k for row i. What is hidden
// becomes -infinity whatever it was, also NaN.
template <int kHalf, int kScores>
__device__ __forceinline__ void HideKeys(float (&scores)[kScores],
                                         const std::uint64_t (&visible)[2],
                                         int lane) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const std::uint64_t shifted = visible[row] >> (2 * (lane % 4));
    const std::uint32_t words[2] = {static_cast<std::uint32_t>(shifted),
                                    static_cast<std::uint32_t>(shifted >> 32)};
#pragma unroll
    for (int column = 0; column < 16; ++column) {
      const int key = column / 2 * 8 + column % 2;
      float& score = scores[kHalf * 32 + column / 2 * 4 + row * 2 + column % 2];
      const bool shown = (words[key / 32] >> (key % 32)) & 1u;
      score = shown ? score : -INFINITY;
    }
  }
}

// Running maximum and sum of the two rows. `scale` is the factor of scores
// times log2(e): a score s weighs 2^(scale * (s - maximum)).
class OnlineSoftmax {
 public:
  // Turns scores into weights relative to the maximum so far. decay[i] is what
  // earlier weights of row i, and sums of them, are to be multiplied by.
  template <int kScores>
  __device__ __forceinline__ void Weigh(float (&scores)[kScores], float scale,
                                        float (&decay)[2]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float most[2] = {maximum_[row], maximum_[row]};
#pragma unroll
      for (int column = 0; column < kScores / 2; ++column) {
        most[column % 2] = fmaxf(most[column % 2], scores[Index(row, column)]);
      }
      const float maximum =
          OverRow(fmaxf(most[0], most[1]),
                  [](float a, float b) { return fmaxf(a, b); });
      // A row that has seen no key yet: -infinity - -infinity is no number.
      const float base = maximum == -INFINITY ? 0.0f : maximum * scale;
      decay[row] = ExpBase2(maximum_[row] * scale - base);
      maximum_[row] = maximum;
      float sums[2] = {0.0f, 0.0f};
#pragma unroll
      for (int column = 0; column < kScores / 2; ++column) {
        float& score = scores[Index(row, column)];
        score = ExpBase2(score * scale - base);
        sums[column % 2] += score;
      }
      sum_[row] = sum_[row] * decay[row] + (sums[0] + sums[1]);
    }
  }

  // Whether this thread's scores of row `row` all lie more than `distance`,
  // which is in scores too, below the maximum so far; false if one is NaN, or
  // if there is no maximum yet.
  template <int kScores>
  __device__ __forceinline__ bool AreFarBelow(const float (&scores)[kScores],
                                              int row, float distance) const {
    const float limit = maximum_[row] - distance;
    bool below = true;
#pragma unroll
    for (int column = 0; column < kScores / 2; ++column) {
      below = below && scores[Index(row, column)] < limit;
    }
    return below;
  }

  // The row's denominator relative to its maximum; 0: it saw no key.
  __device__ __forceinline__ float Denominator(int row) const {
    return OverRow(sum_[row], [](float a, float b) { return a + b; });
  }
  __device__ __forceinline__ float maximum(int row) const {
    return maximum_[row];
  }

 private:
  // Where of a thread's scores its column of `row` is.
  __device__ static constexpr int Index(int row, int column) {
    return column / 2 * 4 + row * 2 + column % 2;
  }

  float maximum_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {0.0f, 0.0f};
};

// A pair as wgmma reads it: the first in the low half.
__device__ __forceinline__ std::uint32_t PackPair(float first, float second) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  return packed;
}

// Weights as the left factors of products with 16 keys each.
template <int kPairs>
__device__ __forceinline__ void PackWeights(const float (&weights)[2 * kPairs],
                                            std::uint32_t (&packed)[kPairs]) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    packed[i] = PackPair(weights[2 * i], weights[2 * i + 1]);
  }
}

}  // namespace sparseserve::cuda
