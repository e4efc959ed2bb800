// Sums over the lanes of float vectors, compiled once per SIMD target. Include
// after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_LANE_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_LANE_SUMS_INL_H_
#undef SPARSESERVE_CPU_LANE_SUMS_INL_H_
#else
#define SPARSESERVE_CPU_LANE_SUMS_INL_H_
#endif

#include "engine/backend/cpu/float_vectors-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Sums of the lanes of four vectors.
struct FourSums {
  float value[4];
};

#if HWY_TARGET == HWY_SCALAR  // has one lane
HWY_INLINE FourSums SumLanes(VF a, VF b, VF c, VF d) {
  return {{hn::GetLane(a), hn::GetLane(b), hn::GetLane(c), hn::GetLane(d)}};
}
#else
template <class D, class V>
HWY_INLINE void FoldTo128(D d, V v, float* sums) {
  if constexpr (hn::MaxLanes(d) > 4) {
    const hn::Half<D> half;
    FoldTo128(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)),
              sums);
  } else {
    hn::StoreU(v, d, sums);
  }
}

// In each block of 128 bits, the sums of that block of a, of b, of c and of d.
// Adds pairs while transposing, so that four sums cost little more than one.
HWY_INLINE VF SumBlocks(VF a, VF b, VF c, VF d) {
  const DF df;
  const VF ac =
      hn::Add(hn::InterleaveLower(df, a, c), hn::InterleaveUpper(df, a, c));
  const VF bd =
      hn::Add(hn::InterleaveLower(df, b, d), hn::InterleaveUpper(df, b, d));
  return hn::Add(hn::InterleaveLower(df, ac, bd),
                 hn::InterleaveUpper(df, ac, bd));
}

HWY_INLINE FourSums SumLanes(VF a, VF b, VF c, VF d) {
  FourSums sums;
  FoldTo128(DF(), SumBlocks(a, b, c, d), sums.value);
  return sums;
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
