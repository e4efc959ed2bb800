#include "engine/backend/cpu/attention_kernels.h"

#include <algorithm>

#include "hwy/cache_control.h"

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/attention_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/attention_softmax-inl.h"
#include "engine/backend/cpu/attention_totals-inl.h"
#include "engine/backend/cpu/row_scores-inl.h"
#include "engine/backend/cpu/simd_dispatch.h"
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

// Blocks are anywhere in memory, so the next one is fetched by hand: `count`
// elements from `first` on of its keys and of its values.
template <typename Element>
HWY_INLINE void FetchNext(const AttentionBlock& block, int first, int count) {
  constexpr int kLineElements = 64 / sizeof(Element);
  for (int i = first; i < first + count; i += kLineElements) {
    hwy::Prefetch(reinterpret_cast<const Element*>(block.next_keys) + i);
    hwy::Prefetch(reinterpret_cast<const Element*>(block.next_values) + i);
  }
}

// The keys of a block, in the forms that products take: Score() gives the
// scores of the scratch's rows first, ..., first + kRows - 1 with all keys up
// to the next multiple of 16.
struct TransposedKeys {
  template <int kRows>
  void Score(int first, AttentionScratch& scratch) const {
    Multiply<kRows>(scratch.queries + first, keys,
                    {scratch.scores, kBlockKeys, nullptr});
  }
  Right<float> keys;
};

template <typename Element>
struct KeyRows {
  template <int kRows>
  void Score(int first, AttentionScratch& scratch) const {
    const auto ahead = [&](int element, int count) {
      if (first == 0) FetchNext<Element>(block, element, count);
    };
    ScoreRows<kRows>(scratch.queries + first,
                     reinterpret_cast<const Element*>(block.keys),
                     block.loaded_keys, block.head_dim, ahead, scratch.scores);
  }
  const AttentionBlock& block;
};

template <int kRows, class Keys, typename Element>
void AddBlockToRows(const Keys& keys, const Right<Element>& values,
                    const AttentionBlock& block, int first,
                    AttentionScratch& scratch) {
  keys.template Score<kRows>(first, scratch);
  const int columns = (block.loaded_keys + 15) / 16 * 16;
  if (block.softcap > 0) {
    for (int r = 0; r < kRows; ++r) {
      CapScores(columns, block.scale, block.softcap,
                scratch.scores + r * kBlockKeys);
    }
  }
  if (block.skip_below > kNoSkip &&
      AreNegligible(block, first, kRows, columns, scratch)) {
    scratch.skipped += kRows;
    return;
  }
  const float* weights[kRows];
  for (int r = 0; r < kRows; ++r) {
    float* scores = scratch.scores + r * kBlockKeys;
    WeighRow(block, first + r, columns, scores, scratch);
    weights[r] = scores;
  }
  const int stride = RowStride(block.head_dim);
  Multiply<kRows>(
      weights, values,
      {scratch.output + first * stride, stride, scratch.rescale + first});
}

template <class Keys, typename Element>
void AddBlockToAll(const Keys& keys, const Right<Element>& values,
                   const AttentionBlock& block, AttentionScratch& scratch) {
  int row = 0;
  for (; row + kTileRows <= block.rows; row += kTileRows) {
    AddBlockToRows<kTileRows>(keys, values, block, row, scratch);
  }
  switch (block.rows - row) {
    case 5:
      return AddBlockToRows<5>(keys, values, block, row, scratch);
    case 4:
      return AddBlockToRows<4>(keys, values, block, row, scratch);
    case 3:
      return AddBlockToRows<3>(keys, values, block, row, scratch);
    case 2:
      return AddBlockToRows<2>(keys, values, block, row, scratch);
    case 1:
      return AddBlockToRows<1>(keys, values, block, row, scratch);
    default:
      return;
  }
}

// Values are used once per tile of rows: a copy pays if they need converting
// more often than a copy would, or padding.
template <typename Element, class Keys>
void AddBlockWithKeys(const Keys& keys, const AttentionBlock& block,
                      AttentionScratch& scratch) {
  const Element* values = reinterpret_cast<const Element*>(block.values);
  const int stride = RowStride(block.head_dim);
  const bool is_float = sizeof(Element) == sizeof(float);
  if (stride == block.head_dim && (is_float || block.rows <= kTileRows)) {
    AddBlockToAll(keys,
                  Right<Element>{values, stride, block.loaded_keys, stride},
                  block, scratch);
  } else {
    ExpandValues(values, block.loaded_keys, block.head_dim, scratch.values);
    AddBlockToAll(
        keys, Right<float>{scratch.values, stride, block.loaded_keys, stride},
        block, scratch);
  }
}

template <typename Element>
void AddBlockOf(const AttentionBlock& block, AttentionScratch& scratch) {
  const auto ahead = [&](int first, int count) {
    FetchNext<Element>(block, first, count);
  };
  TransposeRows(reinterpret_cast<const Element*>(block.keys), block.loaded_keys,
                block.head_dim, scratch.keys, ahead);
  AddBlockWithKeys<Element>(
      TransposedKeys{{scratch.keys, kBlockKeys, block.head_dim,
                      (block.loaded_keys + 15) / 16 * 16}},
      block, scratch);
}

template <typename Element>
void AddBlockToFewOf(const AttentionBlock& block, AttentionScratch& scratch) {
  if (block.head_dim % kPairedLanes != 0) {
    return AddBlockOf<Element>(block, scratch);
  }
  AddBlockWithKeys<Element>(KeyRows<Element>{block}, block, scratch);
}

void AddBlock(const AttentionBlock& block, AttentionScratch& scratch) {
  if (block.dtype == DType::kBF16) {
    AddBlockOf<hwy::bfloat16_t>(block, scratch);
  } else {
    AddBlockOf<float>(block, scratch);
  }
}

void AddBlockToFew(const AttentionBlock& block, AttentionScratch& scratch) {
  if (block.dtype == DType::kBF16) {
    AddBlockToFewOf<hwy::bfloat16_t>(block, scratch);
  } else {
    AddBlockToFewOf<float>(block, scratch);
  }
}

const AttentionKernels& TargetAttentionKernels(RowCount rows) {
  static constexpr AttentionKernels kKernels = {&Begin, &AddBlock, &EndStretch,
                                                &FinishRow, &CapScores};
  static constexpr AttentionKernels kFewRows = {
      &Begin, &AddBlockToFew, &EndStretch, &FinishRow, &CapScores};
  return rows == RowCount::kFew ? kFewRows : kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparseserve::cpu {

HWY_EXPORT(TargetAttentionKernels);

const AttentionKernels& AttentionKernelsFor(SimdLevel level, RowCount rows) {
  return HWY_DISPATCH_TABLE(TargetAttentionKernels)[DispatchIndex(level)](rows);
}

}  // namespace sparseserve::cpu
#endif  // HWY_ONCE
