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
#include "engine/backend/cpu/tile_products-inl.h"
#include "engine/backend/cpu/transpose-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

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

// Lanes i, i + 1, ... whose bit is 1.
HWY_INLINE hn::Mask<DF> LanesOf(uint64_t bits, int i) {
  uint8_t bytes[sizeof(uint64_t)];
  bits >>= i;
  std::memcpy(bytes, &bits, sizeof(bytes));
  return hn::LoadMaskBits(DF(), bytes);
}

// Turns a row of raw scores into exp(scaled score - new maximum), 0 for hidden
// keys, and updates the row's running maximum and sum. A NaN score makes the
// sum NaN. With kHasBits the row's visible_bits say which keys are hidden. Not
// inlined, so that every tile shape rounds the same way.
template <bool kHasBits>
HWY_NOINLINE void SoftmaxRow(int row, int columns, float scale, float* scores,
                             AttentionScratch& scratch) {
  const DF d;
  const int begin = scratch.visible_begin[row];
  const int end = scratch.visible_end[row];
  if (begin >= end) {
    std::fill(scores, scores + columns, 0.0f);
    scratch.rescale[row] = 1.0f;
    return;
  }
  const VF hidden = hn::Set(d, kMinusInfinity);
  VF greatest = hidden;
  for (int i = 0; i < columns; i += kLanes) {
    VF score = hn::Mul(hn::LoadU(d, scores + i), hn::Set(d, scale));
    if constexpr (kHasBits) {
      const auto seen = LanesOf(scratch.visible_bits[row], i);
      score = hn::IfThenElse(seen, score, hidden);
    } else if (i + kLanes > end) {
      const size_t seen = static_cast<size_t>(std::max(end - i, 0));
      score = hn::IfThenElse(hn::FirstN(d, seen), score, hidden);
    }
    if (!kHasBits && i < begin) {
      const size_t passed = static_cast<size_t>(begin - i);
      score = hn::IfThenElse(hn::FirstN(d, passed), hidden, score);
    }
    greatest = hn::Max(greatest, score);
    hn::StoreU(score, d, scores + i);
  }
  const float before = scratch.maximum[row];
  const float maximum =
      std::max(before, hn::GetLane(hn::MaxOfLanes(d, greatest)));
  VF sum = hn::Zero(d);
  for (int i = 0; i < columns; i += kLanes) {
    const VF weight =
        Exp(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, maximum)));
    sum = hn::Add(sum, weight);
    hn::StoreU(weight, d, scores + i);
  }
  const float rescale = before == maximum ? 1.0f : std::exp(before - maximum);
  scratch.maximum[row] = maximum;
  scratch.rescale[row] = rescale;
  scratch.sum[row] =
      scratch.sum[row] * rescale + hn::GetLane(hn::SumOfLanes(d, sum));
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
    float scale = block.scale;
    if (block.softcap > 0) {
      CapScores(keys.columns, scale, block.softcap, scores);
      scale = 1;
    }
    if (block.has_bits) {
      SoftmaxRow<true>(first + r, keys.columns, scale, scores, scratch);
    } else {
      SoftmaxRow<false>(first + r, keys.columns, scale, scores, scratch);
    }
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
                                                &FinishRow};
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
