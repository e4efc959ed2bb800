#include "engine/backend/cpu/elementwise_kernels.h"

#include <cmath>

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/elementwise_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/simd_dispatch.h"
#include "engine/backend/cpu/simd_math-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Whole vectors first, then single elements with a vector of one lane: which
// of the two computes an element follows from its index alone.
using DWhole = hn::ScalableTag<float>;
using DOne = hn::CappedTag<float, 1>;

template <class Operation>
HWY_INLINE void ForEachVector(int64_t count, const Operation& operation) {
  const DWhole whole;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(whole));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) operation(whole, i);
  for (; i < count; ++i) operation(DOne(), i);
}

float SumOfSquares(const float* input, int64_t count) {
  const DWhole d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::LoadU(d, input + i);
    sum = hn::MulAdd(x, x, sum);
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < count; ++i) total += input[i] * input[i];
  return total;
}

void RmsNorm(const float* input, const float* gain, float epsilon,
             int64_t columns, float* output) {
  const float mean = SumOfSquares(input, columns) / columns;
  const float factor = 1.0f / std::sqrt(mean + epsilon);
  ForEachVector(columns, [&](auto d, int64_t i) HWY_ATTR {
    const auto x = hn::Mul(hn::LoadU(d, input + i), hn::Set(d, factor));
    hn::StoreU(hn::Mul(x, hn::LoadU(d, gain + i)), d, output + i);
  });
}

void AddRmsNorm(const float* input, const float* gain, float epsilon,
                int64_t columns, float* output) {
  const float mean = SumOfSquares(input, columns) / columns;
  const float factor = 1.0f / std::sqrt(mean + epsilon);
  ForEachVector(columns, [&](auto d, int64_t i) HWY_ATTR {
    const auto x = hn::Mul(hn::LoadU(d, input + i), hn::Set(d, factor));
    const auto normed = hn::Mul(x, hn::LoadU(d, gain + i));
    hn::StoreU(hn::Add(hn::LoadU(d, output + i), normed), d, output + i);
  });
}

void Swiglu(const float* gate, const float* up, int64_t columns,
            float* output) {
  ForEachVector(columns, [&](auto d, int64_t i) HWY_ATTR {
    const auto g = hn::LoadU(d, gate + i);
    const auto denominator = hn::Add(hn::Set(d, 1.0f), Exp(d, hn::Neg(g)));
    const auto silu = hn::Div(g, denominator);
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + i)), d, output + i);
  });
}

// (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which keeps its precision where
// tanh(u) is near -1.
void Geglu(const float* gate, const float* up, int64_t columns, float* output) {
  constexpr float kMinusTwiceRoot = -1.59576912f;  // -2 sqrt(2 / pi)
  ForEachVector(columns, [&](auto d, int64_t i) HWY_ATTR {
    const auto g = hn::LoadU(d, gate + i);
    const auto cubic =
        hn::MulAdd(hn::Mul(g, g), hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
    const auto exponent =
        hn::Mul(hn::Mul(g, cubic), hn::Set(d, kMinusTwiceRoot));
    const auto denominator = hn::Add(hn::Set(d, 1.0f), Exp(d, exponent));
    const auto gelu = hn::Div(g, denominator);
    hn::StoreU(hn::Mul(gelu, hn::LoadU(d, up + i)), d, output + i);
  });
}

void RotatePairs(const float* input, const float* cosines, const float* sines,
                 int64_t pairs, float* output) {
  const DWhole d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= pairs; i += lanes) {
    hn::Vec<DWhole> even, odd;
    hn::LoadInterleaved2(d, input + 2 * i, even, odd);
    const auto cosine = hn::LoadU(d, cosines + i);
    const auto sine = hn::LoadU(d, sines + i);
    const auto x = hn::NegMulAdd(odd, sine, hn::Mul(even, cosine));
    const auto y = hn::MulAdd(odd, cosine, hn::Mul(even, sine));
    hn::StoreInterleaved2(x, y, d, output + 2 * i);
  }
  for (; i < pairs; ++i) {
    const float even = input[2 * i];
    const float odd = input[2 * i + 1];
    output[2 * i] = even * cosines[i] - odd * sines[i];
    output[2 * i + 1] = odd * cosines[i] + even * sines[i];
  }
}

void RotateHalves(const float* input, const float* cosines, const float* sines,
                  int64_t pairs, float* output) {
  ForEachVector(pairs, [&](auto d, int64_t i) HWY_ATTR {
    const auto first = hn::LoadU(d, input + i);
    const auto second = hn::LoadU(d, input + pairs + i);
    const auto cosine = hn::LoadU(d, cosines + i);
    const auto sine = hn::LoadU(d, sines + i);
    const auto x = hn::NegMulAdd(second, sine, hn::Mul(first, cosine));
    const auto y = hn::MulAdd(second, cosine, hn::Mul(first, sine));
    hn::StoreU(x, d, output + i);
    hn::StoreU(y, d, output + pairs + i);
  });
}

void Add(const float* addend, int64_t count, float* values) {
  ForEachVector(count, [&](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(d, values + i), hn::LoadU(d, addend + i)), d,
               values + i);
  });
}

void AddDifference(const float* minuend, const float* subtrahend, int64_t count,
                   float* values) {
  ForEachVector(count, [&](auto d, int64_t i) HWY_ATTR {
    const auto difference =
        hn::Sub(hn::LoadU(d, minuend + i), hn::LoadU(d, subtrahend + i));
    hn::StoreU(hn::Add(hn::LoadU(d, values + i), difference), d, values + i);
  });
}

void Scale(float factor, int64_t count, float* values) {
  ForEachVector(count, [&](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, values + i), hn::Set(d, factor)), d,
               values + i);
  });
}

void CapSoftly(float cap, int64_t count, float* values) {
  const float inverse = 1.0f / cap;
  ForEachVector(count, [&](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(SoftCap(d, hn::LoadU(d, values + i), hn::Set(d, inverse),
                       hn::Set(d, cap)),
               d, values + i);
  });
}

void ToBfloat16(const float* input, int64_t count, uint16_t* output) {
  ForEachVector(count, [&](auto d, int64_t i) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(d)> du;
    const hn::Rebind<uint16_t, decltype(d)> du16;
    const auto x = hn::LoadU(d, input + i);
    const auto bits = hn::BitCast(du, x);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
    // Rounding could carry a NaN's payload into its exponent.
    const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
    rounded = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), quiet, rounded);
    const auto high = hn::ShiftRight<16>(rounded);
    hn::StoreU(hn::TruncateTo(du16, high), du16, output + i);
  });
}

const ElementwiseKernels& TargetElementwiseKernels() {
  static constexpr ElementwiseKernels kKernels = {
      &RmsNorm,     &AddRmsNorm,   &Swiglu,    &Geglu,
      &RotatePairs, &RotateHalves, &Add,       &AddDifference,
      &Scale,       &CapSoftly,    &ToBfloat16};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparseserve::cpu {

HWY_EXPORT(TargetElementwiseKernels);

const ElementwiseKernels& ElementwiseKernelsFor(SimdLevel level) {
  return HWY_DISPATCH_TABLE(TargetElementwiseKernels)[DispatchIndex(level)]();
}

}  // namespace sparseserve::cpu
#endif  // HWY_ONCE
