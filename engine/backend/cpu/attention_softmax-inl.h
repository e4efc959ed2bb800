// How rows of scores become weights, compiled once per SIMD target. Include
// after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_ATTENTION_SOFTMAX_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_ATTENTION_SOFTMAX_INL_H_
#undef SPARSESERVE_CPU_ATTENTION_SOFTMAX_INL_H_
#else
#define SPARSESERVE_CPU_ATTENTION_SOFTMAX_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/backend/cpu/attention_kernels.h"
#include "engine/backend/cpu/attention_totals-inl.h"
#include "engine/backend/cpu/simd_math-inl.h"
#include "engine/backend/cpu/tile_products-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Lanes i, i + 1, ... whose bit is 1.
HWY_INLINE hn::Mask<DF> LanesOf(uint64_t bits, int i) {
  uint8_t bytes[sizeof(uint64_t)];
  bits >>= i;
  std::memcpy(bytes, &bits, sizeof(bytes));
  return hn::LoadMaskBits(DF(), bytes);
}

// Which keys of a block a row may have to hide.
enum class Hidden { kNone, kOutside, kByBits };

// Which of the lanes i, i + 1, ... a row sees.
template <Hidden kHidden>
HWY_INLINE hn::Mask<DF> SeenLanes(const AttentionScratch& scratch, int row,
                                  int i) {
  const DF d;
  if constexpr (kHidden == Hidden::kByBits) {
    return LanesOf(scratch.visible_bits[row], i);
  }
  const size_t passed =
      static_cast<size_t>(std::max(scratch.visible_begin[row] - i, 0));
  const size_t seen =
      static_cast<size_t>(std::max(scratch.visible_end[row] - i, 0));
  return hn::AndNot(hn::FirstN(d, passed), hn::FirstN(d, seen));
}

// The greatest of a row's raw scores, hidden ones replaced by -infinity.
template <Hidden kHidden>
HWY_INLINE float HideAndFindGreatest(const AttentionScratch& scratch, int row,
                                     int columns, float* scores) {
  const DF d;
  const VF hidden = hn::Set(d, kMinusInfinity);
  VF greatest = hidden;
  for (int i = 0; i < columns; i += kLanes) {
    VF score = hn::LoadU(d, scores + i);
    if constexpr (kHidden != Hidden::kNone) {
      score =
          hn::IfThenElse(SeenLanes<kHidden>(scratch, row, i), score, hidden);
      hn::StoreU(score, d, scores + i);
    }
    greatest = hn::Max(greatest, score);
  }
  return hn::GetLane(hn::MaxOfLanes(d, greatest));
}

// Turns a row of raw scores into exp(scale * (score - new maximum)), 0 for
// hidden keys, and updates the row's running maximum and sum. A NaN score makes
// the sum NaN. The maximum is taken off before anything is scaled: its own
// weight is 1 however great it is. Not inlined, so that every tile shape rounds
// the same way. REQUIRES: the row sees a key; scale > 0.
template <Hidden kHidden>
HWY_NOINLINE void SoftmaxRow(int row, int columns, float* scores,
                             AttentionScratch& scratch) {
  const DF d;
  constexpr float kLog2E = 1.44269504f;
  const float greatest =
      HideAndFindGreatest<kHidden>(scratch, row, columns, scores);
  const float before = scratch.maximum[row];
  const float maximum = std::max(before, greatest);
  const VF factor = hn::Set(d, scratch.scale * kLog2E);
  const VF offset = hn::Set(d, maximum);
  VF sum = hn::Zero(d);
  for (int i = 0; i < columns; i += kLanes) {
    const VF weight =
        Exp2(d, hn::Mul(hn::Sub(hn::LoadU(d, scores + i), offset), factor));
    sum = hn::Add(sum, weight);
    hn::StoreU(weight, d, scores + i);
  }
  const float rescale =
      before == maximum ? 1.0f : std::exp(scratch.scale * (before - maximum));
  scratch.maximum[row] = maximum;
  scratch.rescale[row] = rescale;
  scratch.sum[row] =
      scratch.sum[row] * rescale + hn::GetLane(hn::SumOfLanes(d, sum));
}

// Adds a bias to a row of raw scores, such that it is what it is after their
// scaling.
HWY_NOINLINE void AddBias(int columns, float scale, const float* bias,
                          float* scores) {
  const DF d;
  const VF factor = hn::Set(d, 1.0f / scale);
  for (int i = 0; i < columns; i += kLanes) {
    const VF score = hn::LoadU(d, scores + i);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, bias + i), factor, score), d,
               scores + i);
  }
}

// Weighs any row of a block, as SoftmaxRow; scores are capped already.
void WeighRow(const AttentionBlock& block, int row, int columns, float* scores,
              AttentionScratch& scratch) {
  const int begin = scratch.visible_begin[row];
  const int end = scratch.visible_end[row];
  if (begin >= end) {
    std::fill(scores, scores + columns, 0.0f);
    scratch.rescale[row] = 1.0f;
    return;
  }
  if (block.has_bias) {
    AddBias(columns, scratch.scale, scratch.bias[row], scores);
  }
  if (block.has_bits) {
    SoftmaxRow<Hidden::kByBits>(row, columns, scores, scratch);
  } else if (begin > 0 || end < columns) {
    SoftmaxRow<Hidden::kOutside>(row, columns, scores, scratch);
  } else {
    SoftmaxRow<Hidden::kNone>(row, columns, scores, scratch);
  }
}

// Whether all of a row's scores that it sees are below a limit. One that is no
// number is not.
template <Hidden kHidden>
HWY_INLINE bool AreBelow(const AttentionScratch& scratch, int row, int columns,
                         const float* scores, float limit) {
  const DF d;
  const VF limits = hn::Set(d, limit);
  for (int i = 0; i < columns; i += kLanes) {
    auto below = hn::Lt(hn::LoadU(d, scores + i), limits);
    if constexpr (kHidden != Hidden::kNone) {
      below = hn::Or(below, hn::Not(SeenLanes<kHidden>(scratch, row, i)));
    }
    if (!hn::AllTrue(d, below)) return false;
  }
  return true;
}

// Whether `rows` rows from `first` on may all leave a block out, by their
// scores and the greatest of those before. REQUIRES: no bias.
HWY_NOINLINE bool AreNegligible(const AttentionBlock& block, int first,
                                int rows, int columns,
                                const AttentionScratch& scratch) {
  const float distance = block.skip_below / scratch.scale;
  for (int r = 0; r < rows; ++r) {
    const int row = first + r;
    const float* scores = scratch.scores + r * kBlockKeys;
    float greatest = scratch.maximum[row];
    if (block.skips_by_total) {
      greatest = std::max(greatest, scratch.total_maximum[row]);
    }
    const float limit = greatest + distance;
    // Of a row that has seen no key nothing is below.
    if (!(limit > kMinusInfinity)) return false;
    bool below = false;
    if (block.has_bits) {
      below = AreBelow<Hidden::kByBits>(scratch, row, columns, scores, limit);
    } else if (!block.is_full) {
      below = AreBelow<Hidden::kOutside>(scratch, row, columns, scores, limit);
    } else {
      below = AreBelow<Hidden::kNone>(scratch, row, columns, scores, limit);
    }
    if (!below) return false;
  }
  return true;
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
