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
