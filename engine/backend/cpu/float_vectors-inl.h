// The widest float vectors of a SIMD target. Include after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_FLOAT_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_FLOAT_VECTORS_INL_H_
#undef SPARSESERVE_CPU_FLOAT_VECTORS_INL_H_
#else
#define SPARSESERVE_CPU_FLOAT_VECTORS_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
