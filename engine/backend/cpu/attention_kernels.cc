#include "engine/backend/cpu/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hwy/cache_control.h"

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/attention_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/attention_totals-inl.h"
#include "engine/backend/cpu/simd_dispatch.h"
#include "engine/backend/cpu/simd_math-inl.h"
#include "engine/backend/cpu/transpose-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Register tile of the two products: rows by vectors of columns. 24 sums of
// AVX-512's 32 registers, 12 of the 16 elsewhere.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes >= 16 ? 4 : 2;
static_assert(kTileRows <= kScoreRows);

template <typename Element>
void ExpandValues(const Element* values, int loaded_keys, int head_dim,
                  float* expanded) {
  const hn::CappedTag<float, 8> d;
  constexpr int kStep = static_cast<int>(hn::MaxLanes(d));
  const int stride = RowStride(head_dim);
  for (int key = 0; key < loaded_keys; ++key) {
    for (int i = 0; i < head_dim; i += kStep) {
      hn::StoreU(LoadFloats(d, values + key * head_dim + i), d,
                 expanded + key * stride + i);
    }
  }
}

// The right operand of a product: [depth, columns], read as float.
template <typename Element>
struct Right {
  const Element* data;
  int stride;
  int depth;
  int columns;
};

// Where a product goes: rows of float.
struct Target {
  float* data;
  int stride;
  const float* scale;  // [rows]; null to overwrite
};

// target[r, :] = target[r, :] * scale[r] + sum_k a[r][k] * b[k, :] over
// kVectors vectors of columns from `column` on. Every element's sum runs over
// ascending k, so the shape of the tile does not show in it.
template <int kRows, int kVectors, typename Element>
HWY_INLINE void MultiplyTile(const float* const* a, const Right<Element>& b,
                             int column, const Target& target) {
  const DF d;
  VF sums[kRows][kVectors];
  float* to = target.data + column;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const float* from = to + r * target.stride + v * kLanes;
      sums[r][v] =
          target.scale == nullptr
              ? hn::Zero(d)
              : hn::Mul(hn::LoadU(d, from), hn::Set(d, target.scale[r]));
    }
  }
  for (int k = 0; k < b.depth; ++k) {
    VF factors[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      factors[v] = LoadFloats(d, b.data + k * b.stride + column + v * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const VF factor = hn::Set(d, a[r][k]);
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::MulAdd(factor, factors[v], sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(sums[r][v], d, to + r * target.stride + v * kLanes);
    }
  }
}

template <int kRows, typename Element>
void Multiply(const float* const* a, const Right<Element>& b,
              const Target& target) {
  int i = 0;
  for (; i + kTileVectors * kLanes <= b.columns; i += kTileVectors * kLanes) {
    MultiplyTile<kRows, kTileVectors>(a, b, i, target);
  }
  for (; i < b.columns; i += kLanes) MultiplyTile<kRows, 1>(a, b, i, target);
}

HWY_NOINLINE void CapScores(int columns, float scale, float softcap,
                            float* scores) {
  const DF d;
  const VF inverse = hn::Set(d, scale / softcap);
  const VF cap = hn::Set(d, softcap);
  for (int i = 0; i < columns; i += kLanes) {
    hn::StoreU(SoftCap(d, hn::LoadU(d, scores + i), inverse, cap), d,
               scores + i);
  }
}

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

// Turns a row of raw scores into exp(scaled score - new maximum), 0 for hidden
// keys, and updates the row's running maximum and sum. A NaN score makes the
// sum NaN. Not inlined, so that every tile shape rounds the same way.
// REQUIRES: the row sees a key; scale > 0.
template <Hidden kHidden>
HWY_NOINLINE void SoftmaxRow(int row, int columns, float scale, float* scores,
                             AttentionScratch& scratch) {
  const DF d;
  constexpr float kLog2E = 1.44269504f;
  const float greatest =
      HideAndFindGreatest<kHidden>(scratch, row, columns, scores);
  const float before = scratch.maximum[row];
  const float maximum = std::max(before, scale * greatest);
  const VF factor = hn::Set(d, scale * kLog2E);
  const VF offset = hn::Set(d, maximum * kLog2E);
  VF sum = hn::Zero(d);
  for (int i = 0; i < columns; i += kLanes) {
    const VF weight =
        Exp2(d, hn::MulSub(hn::LoadU(d, scores + i), factor, offset));
    sum = hn::Add(sum, weight);
    hn::StoreU(weight, d, scores + i);
  }
  const float rescale = before == maximum ? 1.0f : std::exp(before - maximum);
  scratch.maximum[row] = maximum;
  scratch.rescale[row] = rescale;
  scratch.sum[row] =
      scratch.sum[row] * rescale + hn::GetLane(hn::SumOfLanes(d, sum));
}

// Likewise for any row of a block.
void WeighRow(const AttentionBlock& block, int row, int columns, float* scores,
              AttentionScratch& scratch) {
  const int begin = scratch.visible_begin[row];
  const int end = scratch.visible_end[row];
  if (begin >= end) {
    std::fill(scores, scores + columns, 0.0f);
    scratch.rescale[row] = 1.0f;
    return;
  }
  float scale = block.scale;
  if (block.softcap > 0) {
    CapScores(columns, scale, block.softcap, scores);
    scale = 1;
  }
  if (block.has_bits) {
    SoftmaxRow<Hidden::kByBits>(row, columns, scale, scores, scratch);
  } else if (begin > 0 || end < columns) {
    SoftmaxRow<Hidden::kOutside>(row, columns, scale, scores, scratch);
  } else {
    SoftmaxRow<Hidden::kNone>(row, columns, scale, scores, scratch);
  }
}

template <int kRows, typename Element>
void AddBlockToRows(const Right<Element>& values, const AttentionBlock& block,
                    int first, AttentionScratch& scratch) {
  const Right<float> keys = {scratch.keys, kBlockKeys, block.head_dim,
                             (block.loaded_keys + 15) / 16 * 16};
  Multiply<kRows>(scratch.queries + first, keys,
                  {scratch.scores, kBlockKeys, nullptr});
  const float* weights[kRows];
  for (int r = 0; r < kRows; ++r) {
    float* scores = scratch.scores + r * kBlockKeys;
    WeighRow(block, first + r, keys.columns, scores, scratch);
    weights[r] = scores;
  }
  const int stride = RowStride(block.head_dim);
  Multiply<kRows>(
      weights, values,
      {scratch.output + first * stride, stride, scratch.rescale + first});
}

template <typename Element>
void AddBlockToAll(const Right<Element>& values, const AttentionBlock& block,
                   AttentionScratch& scratch) {
  int row = 0;
  for (; row + kTileRows <= block.rows; row += kTileRows) {
    AddBlockToRows<kTileRows>(values, block, row, scratch);
  }
  switch (block.rows - row) {
    case 5:
      return AddBlockToRows<5>(values, block, row, scratch);
    case 4:
      return AddBlockToRows<4>(values, block, row, scratch);
    case 3:
      return AddBlockToRows<3>(values, block, row, scratch);
    case 2:
      return AddBlockToRows<2>(values, block, row, scratch);
    case 1:
      return AddBlockToRows<1>(values, block, row, scratch);
    default:
      return;
  }
}

template <typename Element>
void AddBlockOf(const AttentionBlock& block, AttentionScratch& scratch) {
  // The next block is elsewhere in memory, so it is fetched by hand meanwhile.
  const auto fetch_next = [&](int first, int count) {
    constexpr int kLineElements = 64 / sizeof(Element);
    for (int i = first; i < first + count; i += kLineElements) {
      hwy::Prefetch(reinterpret_cast<const Element*>(block.next_keys) + i);
      hwy::Prefetch(reinterpret_cast<const Element*>(block.next_values) + i);
    }
  };
  TransposeRows(reinterpret_cast<const Element*>(block.keys), block.loaded_keys,
                block.head_dim, scratch.keys, fetch_next);
  const Element* values = reinterpret_cast<const Element*>(block.values);
  const int stride = RowStride(block.head_dim);
  // Values are used once per tile of rows: a copy pays if they need converting
  // more often than a copy would, or padding.
  const bool is_float = sizeof(Element) == sizeof(float);
  if (stride == block.head_dim && (is_float || block.rows <= kTileRows)) {
    AddBlockToAll(Right<Element>{values, stride, block.loaded_keys, stride},
                  block, scratch);
  } else {
    ExpandValues(values, block.loaded_keys, block.head_dim, scratch.values);
    AddBlockToAll(
        Right<float>{scratch.values, stride, block.loaded_keys, stride}, block,
        scratch);
  }
}

void AddBlock(const AttentionBlock& block, AttentionScratch& scratch) {
  if (block.dtype == DType::kBF16) {
    AddBlockOf<hwy::bfloat16_t>(block, scratch);
  } else {
    AddBlockOf<float>(block, scratch);
  }
}

const AttentionKernels& TargetAttentionKernels() {
  static constexpr AttentionKernels kKernels = {&Begin, &AddBlock, &EndStretch,
                                                &FinishRow, &CapScores};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparseserve::cpu {

HWY_EXPORT(TargetAttentionKernels);

const AttentionKernels& AttentionKernelsFor(SimdLevel level) {
  return HWY_DISPATCH_TABLE(TargetAttentionKernels)[DispatchIndex(level)]();
}

}  // namespace sparseserve::cpu
#endif  // HWY_ONCE
