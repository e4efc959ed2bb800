#include "engine/backend/cpu/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/attention_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/simd_dispatch.h"
#include "engine/backend/cpu/simd_math-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
// Register tile of the two products: rows by vectors of columns. 24 sums of
// AVX-512's 32 registers, 12 of the 16 elsewhere.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes >= 16 ? 4 : 2;
static_assert(kTileRows <= kScoreRows);

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

constexpr int PaddedHeadDim(int head_dim) { return (head_dim + 15) / 16 * 16; }

template <typename Element, class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const Element* from) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    return hn::LoadU(d, from);
  } else {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<Element, D>(), from));
  }
}

// scratch.keys[i, key] = keys[key, i], four by four. Columns up to the next
// multiple of 16 behind the loaded keys become 0.
template <typename Element>
void TransposeKeys(const Element* keys, int loaded_keys, int head_dim,
                   float* transposed) {
  const hn::CappedTag<float, 4> d;
  constexpr int kSide = static_cast<int>(hn::MaxLanes(d));
  const int columns = (loaded_keys + 15) / 16 * 16;
  for (int key = 0; key < columns; key += kSide) {
    for (int i = 0; i < head_dim; i += kSide) {
      const auto row = [&](int offset) HWY_ATTR {
        return key + offset < loaded_keys
                   ? LoadFloats(d, keys + (key + offset) * head_dim + i)
                   : hn::Zero(d);
      };
      float* to = transposed + i * kBlockKeys + key;
#if HWY_TARGET == HWY_SCALAR  // has no lanes to interleave
      hn::StoreU(row(0), d, to);
#else
      const auto r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
      const auto low01 = hn::InterleaveLower(d, r0, r1);
      const auto low23 = hn::InterleaveLower(d, r2, r3);
      const auto high01 = hn::InterleaveUpper(d, r0, r1);
      const auto high23 = hn::InterleaveUpper(d, r2, r3);
      hn::StoreU(hn::ConcatLowerLower(d, low23, low01), d, to);
      hn::StoreU(hn::ConcatUpperUpper(d, low23, low01), d, to + kBlockKeys);
      hn::StoreU(hn::ConcatLowerLower(d, high23, high01), d,
                 to + 2 * kBlockKeys);
      hn::StoreU(hn::ConcatUpperUpper(d, high23, high01), d,
                 to + 3 * kBlockKeys);
#endif
    }
  }
}

template <typename Element>
void ExpandValues(const Element* values, int loaded_keys, int head_dim,
                  float* expanded) {
  const hn::CappedTag<float, 8> d;
  constexpr int kStep = static_cast<int>(hn::MaxLanes(d));
  const int stride = PaddedHeadDim(head_dim);
  for (int key = 0; key < loaded_keys; ++key) {
    for (int i = 0; i < head_dim; i += kStep) {
      hn::StoreU(LoadFloats(d, values + key * head_dim + i), d,
                 expanded + key * stride + i);
    }
  }
}

// c[r, :] = c[r, :] * c_scale[r] + sum_k a[r][k] * b[k, :] over kVectors
// vectors of columns; without `c_scale`, c is overwritten. Every element's
// sum runs over ascending k, so the tile's shape does not show in it.
template <int kRows, int kVectors>
HWY_INLINE void MultiplyTile(const float* const* a, int depth, const float* b,
                             int b_stride, const float* c_scale, float* c,
                             int c_stride) {
  const DF d;
  VF sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = c_scale == nullptr
                       ? hn::Zero(d)
                       : hn::Mul(hn::LoadU(d, c + r * c_stride + v * kLanes),
                                 hn::Set(d, c_scale[r]));
    }
  }
  for (int k = 0; k < depth; ++k) {
    VF columns[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      columns[v] = hn::LoadU(d, b + k * b_stride + v * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const VF factor = hn::Set(d, a[r][k]);
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::MulAdd(factor, columns[v], sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(sums[r][v], d, c + r * c_stride + v * kLanes);
    }
  }
}

template <int kRows>
void Multiply(const float* const* a, int depth, const float* b, int b_stride,
              const float* c_scale, float* c, int c_stride, int columns) {
  int i = 0;
  for (; i + kTileVectors * kLanes <= columns; i += kTileVectors * kLanes) {
    MultiplyTile<kRows, kTileVectors>(a, depth, b + i, b_stride, c_scale, c + i,
                                      c_stride);
  }
  for (; i < columns; i += kLanes) {
    MultiplyTile<kRows, 1>(a, depth, b + i, b_stride, c_scale, c + i, c_stride);
  }
}

// Turns a row of raw scores into exp(scaled score - new maximum), 0 for hidden
// keys, and updates the row's running maximum and sum. A NaN score makes the
// sum NaN. Not inlined, so that every tile shape rounds the same way.
HWY_NOINLINE void SoftmaxRow(int row, int columns, float scale, float* scores,
                             AttentionScratch& scratch) {
  const DF d;
  const int visible = scratch.visible_keys[row];
  if (visible == 0) {
    std::fill(scores, scores + columns, 0.0f);
    scratch.rescale[row] = 1.0f;
    return;
  }
  const VF hidden = hn::Set(d, kMinusInfinity);
  VF greatest = hidden;
  for (int i = 0; i < columns; i += kLanes) {
    VF score = hn::Mul(hn::LoadU(d, scores + i), hn::Set(d, scale));
    if (i + kLanes > visible) {
      const size_t seen = static_cast<size_t>(std::max(visible - i, 0));
      score = hn::IfThenElse(hn::FirstN(d, seen), score, hidden);
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
  const float rescale = std::exp(before - maximum);
  scratch.maximum[row] = maximum;
  scratch.rescale[row] = rescale;
  scratch.sum[row] =
      scratch.sum[row] * rescale + hn::GetLane(hn::SumOfLanes(d, sum));
}

template <int kRows>
void AddBlockToRows(const AttentionBlock& block, int first,
                    AttentionScratch& scratch) {
  const int columns = (block.loaded_keys + 15) / 16 * 16;
  const int stride = PaddedHeadDim(block.head_dim);
  Multiply<kRows>(scratch.queries + first, block.head_dim, scratch.keys,
                  kBlockKeys, nullptr, scratch.scores, kBlockKeys, columns);
  const float* weights[kRows];
  for (int r = 0; r < kRows; ++r) {
    float* scores = scratch.scores + r * kBlockKeys;
    SoftmaxRow(first + r, columns, block.scale, scores, scratch);
    weights[r] = scores;
  }
  Multiply<kRows>(weights, block.loaded_keys, scratch.values, stride,
                  scratch.rescale + first, scratch.output + first * stride,
                  stride, stride);
}

template <typename Element>
void LoadBlock(const AttentionBlock& block, AttentionScratch& scratch) {
  TransposeKeys(reinterpret_cast<const Element*>(block.keys), block.loaded_keys,
                block.head_dim, scratch.keys);
  ExpandValues(reinterpret_cast<const Element*>(block.values),
               block.loaded_keys, block.head_dim, scratch.values);
}

void AddBlock(const AttentionBlock& block, AttentionScratch& scratch) {
  if (block.dtype == DType::kBF16) {
    LoadBlock<hwy::bfloat16_t>(block, scratch);
  } else {
    LoadBlock<float>(block, scratch);
  }
  int row = 0;
  for (; row + kTileRows <= block.rows; row += kTileRows) {
    AddBlockToRows<kTileRows>(block, row, scratch);
  }
  switch (block.rows - row) {
    case 5:
      return AddBlockToRows<5>(block, row, scratch);
    case 4:
      return AddBlockToRows<4>(block, row, scratch);
    case 3:
      return AddBlockToRows<3>(block, row, scratch);
    case 2:
      return AddBlockToRows<2>(block, row, scratch);
    case 1:
      return AddBlockToRows<1>(block, row, scratch);
    default:
      return;
  }
}

void Begin(int rows, int head_dim, AttentionScratch& scratch) {
  const int stride = PaddedHeadDim(head_dim);
  std::fill(scratch.maximum, scratch.maximum + rows, kMinusInfinity);
  std::fill(scratch.sum, scratch.sum + rows, 0.0f);
  std::fill(scratch.output, scratch.output + rows * stride, 0.0f);
  // Columns between head_dim and the stride are computed, never read.
  std::fill(scratch.values, scratch.values + kBlockKeys * stride, 0.0f);
}

float FinishRow(int row, int head_dim, const AttentionScratch& scratch,
                float* output) {
  const hn::CappedTag<float, 8> d;
  const float* from = scratch.output + row * PaddedHeadDim(head_dim);
  const float sum = scratch.sum[row];
  const auto factor = hn::Set(d, sum == 0.0f ? 0.0f : 1.0f / sum);
  for (int i = 0; i < head_dim; i += static_cast<int>(hn::Lanes(d))) {
    hn::StoreU(hn::Mul(hn::LoadU(d, from + i), factor), d, output + i);
  }
  return sum == 0.0f ? kMinusInfinity : scratch.maximum[row] + std::log(sum);
}

const AttentionKernels& TargetAttentionKernels() {
  static constexpr AttentionKernels kKernels = {&Begin, &AddBlock, &FinishRow};
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
