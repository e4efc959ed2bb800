// Functions on float vectors, compiled once per SIMD target. Include between
// the target's HWY_BEFORE_NAMESPACE files, after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_SIMD_MATH_INL_H_
#undef SPARSESERVE_CPU_SIMD_MATH_INL_H_
#else
#define SPARSESERVE_CPU_SIMD_MATH_INL_H_
#endif

#include <limits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// e^x within 2 units in the last place for -87 <= x <= 88; 0 below, infinity
// above, NaN for NaN. Cody-Waite reduction to |r| <= ln(2) / 2, then the
// Taylor polynomial of degree 7 (remainder below 2^-27).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  const hn::RebindToSigned<D> di;
  const auto n = hn::NearestInt(hn::Mul(x, hn::Set(d, 1.44269504f)));
  const V n_float = hn::ConvertTo(d, n);
  // ln(2) in two parts; the first has 9 bits, so its product is exact.
  V r = hn::NegMulAdd(n_float, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n_float, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.0f / 5040);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto power = hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127)));
  V result = hn::Mul(p, hn::BitCast(d, power));
  result = hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.0f)),
                          hn::Set(d, std::numeric_limits<float>::infinity()),
                          result);
  return hn::IfThenElse(hn::Lt(x, hn::Set(d, -87.0f)), hn::Zero(d), result);
}

// 2^x for x <= 1, within 2 units in the last place; 0 below -126, NaN for NaN.
// 2^(x - n), |x - n| <= 1/2, by its polynomial of least relative error.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Added to x, this leaves n + 127 in the low bits.
  const V shift = hn::Set(d, 12582912.0f + 127);
  const V shifted = hn::Add(x, shift);
  const V r = hn::Sub(x, hn::Sub(shifted, shift));
  V p = hn::Set(d, 0.0013276472f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.009675542f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.05550713f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.2402212f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.69314694f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0000001f));
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), hn::Mul(p, power));
}

// tanh(x) within 4 units in the last place; NaN for NaN. Below 0.4 by its
// Taylor polynomial of degree 11 (remainder below 2^-23 of the result), where 1
// - 2 / (e^(2 |x|) + 1) would lose digits.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  const V square = hn::Mul(x, x);
  V series = hn::Set(d, -1382.0f / 155925);
  series = hn::MulAdd(series, square, hn::Set(d, 62.0f / 2835));
  series = hn::MulAdd(series, square, hn::Set(d, -17.0f / 315));
  series = hn::MulAdd(series, square, hn::Set(d, 2.0f / 15));
  series = hn::MulAdd(series, square, hn::Set(d, -1.0f / 3));
  series = hn::MulAdd(hn::Mul(series, square), x, x);
  const V size = hn::Abs(x);
  const V power = Exp(d, hn::Add(size, size));
  const V one = hn::Set(d, 1.0f);
  const V large = hn::Sub(one, hn::Div(hn::Set(d, 2.0f), hn::Add(power, one)));
  return hn::IfThenElse(hn::Lt(size, hn::Set(d, 0.4f)), series,
                        hn::CopySign(large, x));
}

// cap * tanh(x / cap), to about five units in the last place; NaN for NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SoftCap(D d, V x, V inverse_of_cap, V cap) {
  return hn::Mul(Tanh(d, hn::Mul(x, inverse_of_cap)), cap);
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
