// Where a pass of attention begins, merges its stretches and ends, compiled
// once per SIMD target. Include after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_ATTENTION_TOTALS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_ATTENTION_TOTALS_INL_H_
#undef SPARSESERVE_CPU_ATTENTION_TOTALS_INL_H_
#else
#define SPARSESERVE_CPU_ATTENTION_TOTALS_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/backend/cpu/attention_kernels.h"
#include "engine/backend/cpu/float_vectors-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

void Begin(int rows, int head_dim, float scale, AttentionScratch& scratch) {
  scratch.scale = scale;
  const int stride = RowStride(head_dim);
  std::fill(scratch.maximum, scratch.maximum + rows, kMinusInfinity);
  std::fill(scratch.sum, scratch.sum + rows, 0.0f);
  std::fill(scratch.output, scratch.output + rows * stride, 0.0f);
  std::fill(scratch.total_maximum, scratch.total_maximum + rows,
            kMinusInfinity);
  std::fill(scratch.total_sum, scratch.total_sum + rows, 0.0f);
  // Columns between head_dim and the stride are computed, never read.
  std::fill(scratch.values, scratch.values + kBlockKeys * stride, 0.0f);
}

// A row that saw no key, and only that, has a sum of 0; one that saw a NaN has
// a sum of NaN, which is handed on.
void EndStretch(int rows, int head_dim, AttentionScratch& scratch) {
  const DF d;
  const int stride = RowStride(head_dim);
  for (int r = 0; r < rows; ++r) {
    if (scratch.sum[r] == 0.0f) continue;
    float* output = scratch.output + r * stride;
    float* total = scratch.total_output + r * stride;
    if (scratch.total_sum[r] == 0.0f) {
      std::copy(output, output + stride, total);
      scratch.total_maximum[r] = scratch.maximum[r];
      scratch.total_sum[r] = scratch.sum[r];
    } else {
      const float maximum =
          std::max(scratch.total_maximum[r], scratch.maximum[r]);
      const float before =
          std::exp(scratch.scale * (scratch.total_maximum[r] - maximum));
      const float now =
          std::exp(scratch.scale * (scratch.maximum[r] - maximum));
      for (int i = 0; i < stride; i += kLanes) {
        const VF kept = hn::Mul(hn::LoadU(d, total + i), hn::Set(d, before));
        const VF added = hn::LoadU(d, output + i);
        hn::StoreU(hn::MulAdd(added, hn::Set(d, now), kept), d, total + i);
      }
      scratch.total_maximum[r] = maximum;
      scratch.total_sum[r] =
          scratch.total_sum[r] * before + scratch.sum[r] * now;
    }
    std::fill(output, output + stride, 0.0f);
    scratch.maximum[r] = kMinusInfinity;
    scratch.sum[r] = 0.0f;
  }
}

// Where the sum is 0 the total is what another sequence's row left there: a
// NaN, perhaps, of which a factor of 0 makes no zero.
float FinishRow(int row, int head_dim, const AttentionScratch& scratch,
                float* output) {
  const float sum = scratch.total_sum[row];
  if (sum == 0.0f) {
    std::fill(output, output + head_dim, 0.0f);
    return kMinusInfinity;
  }
  const hn::CappedTag<float, 8> d;
  const float* from = scratch.total_output + row * RowStride(head_dim);
  const auto factor = hn::Set(d, 1.0f / sum);
  for (int i = 0; i < head_dim; i += static_cast<int>(hn::Lanes(d))) {
    hn::StoreU(hn::Mul(hn::LoadU(d, from + i), factor), d, output + i);
  }
  return scratch.scale * scratch.total_maximum[row] + std::log(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
