#include "engine/backend/cpu/selection_kernels.h"

#include <algorithm>
#include <limits>

// This file is included again for every target; the order matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/selection_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "engine/backend/cpu/simd_dispatch.h"
#include "engine/backend/cpu/simd_math-inl.h"
#include "engine/backend/cpu/transpose-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Sixteen lanes at most, so that every depth is whole vectors.
using DF = hn::CappedTag<float, 16>;
using VF = hn::Vec<DF>;

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
// Register tile: 12 sums, which leaves 4 of 16 registers for operands.
constexpr int kTileQueries = 3;
constexpr int kTileKeys = 4;

template <int kQueries, int kKeys, typename Element>
HWY_INLINE void MultiplyTile(const float* queries, const Element* keys,
                             int64_t depth, int stride, float* products) {
  const DF d;
  VF sums[kQueries][kKeys];
  for (int q = 0; q < kQueries; ++q) {
    for (int k = 0; k < kKeys; ++k) sums[q][k] = hn::Zero(d);
  }
  for (int64_t i = 0; i < depth; i += kLanes) {
    VF query[kQueries];
    for (int q = 0; q < kQueries; ++q) {
      query[q] = hn::LoadU(d, queries + q * depth + i);
    }
    for (int k = 0; k < kKeys; ++k) {
      const VF key = LoadFloats(d, keys + k * depth + i);
      for (int q = 0; q < kQueries; ++q) {
        sums[q][k] = hn::MulAdd(query[q], key, sums[q][k]);
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    for (int k = 0; k < kKeys; ++k) {
      products[q * stride + k] = hn::GetLane(hn::SumOfLanes(d, sums[q][k]));
    }
  }
}

template <int kQueries, typename Element>
void MultiplyKeys(const float* queries, const Element* keys, int key_rows,
                  int64_t depth, int stride, float* products) {
  int k = 0;
  for (; k + kTileKeys <= key_rows; k += kTileKeys) {
    MultiplyTile<kQueries, kTileKeys>(queries, keys + k * depth, depth, stride,
                                      products + k);
  }
  for (; k < key_rows; ++k) {
    MultiplyTile<kQueries, 1>(queries, keys + k * depth, depth, stride,
                              products + k);
  }
}

template <typename Element>
void MultiplyRows(const RowProducts& rows, int stride, float* products) {
  const auto* keys = reinterpret_cast<const Element*>(rows.keys);
  int q = 0;
  for (; q + kTileQueries <= rows.query_rows; q += kTileQueries) {
    MultiplyKeys<kTileQueries>(rows.queries + q * rows.depth, keys,
                               rows.key_rows, rows.depth, stride,
                               products + q * stride);
  }
  for (; q < rows.query_rows; ++q) {
    MultiplyKeys<1>(rows.queries + q * rows.depth, keys, rows.key_rows,
                    rows.depth, stride, products + q * stride);
  }
}

void Multiply(const RowProducts& rows, int stride, float* products) {
  if (rows.dtype == DType::kBF16) {
    MultiplyRows<hwy::bfloat16_t>(rows, stride, products);
  } else {
    MultiplyRows<float>(rows, stride, products);
  }
}

void CapValues(float cap, int count, float* values) {
  const DF d;
  for (int i = 0; i < count; i += kLanes) {
    hn::StoreU(SoftCap(d, hn::LoadU(d, values + i), hn::Set(d, 1 / cap),
                       hn::Set(d, cap)),
               d, values + i);
  }
}

void Summarise(const float* values, int count, float& maximum, float& sum) {
  const DF d;
  const VF hidden = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto load = [&](int i) HWY_ATTR {
    const VF value = hn::LoadU(d, values + i);
    if (i + kLanes <= count) return value;
    return hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(count - i)), value,
                          hidden);
  };
  VF greatest = hidden;
  for (int i = 0; i < count; i += kLanes) {
    greatest = hn::Max(greatest, load(i));
  }
  maximum = hn::GetLane(hn::MaxOfLanes(d, greatest));
  VF sums = hn::Zero(d);
  for (int i = 0; i < count; i += kLanes) {
    sums = hn::Add(sums, Exp(d, hn::Sub(load(i), hn::Set(d, maximum))));
  }
  sum = hn::GetLane(hn::SumOfLanes(d, sums));
}

void PackRows(SummaryRows& rows) {
  for (float& value : rows.queries) value *= rows.factor;
}

void SummariseBlocks(const SummaryRows& rows, const SummaryBlocks& blocks,
                     std::vector<float>& products, const Summaries& to) {
  const int keys = blocks.key_rows;
  products.resize(rows.rows * keys + 16);
  RowProducts operands;
  operands.queries = rows.queries.data();
  operands.query_rows = rows.rows;
  operands.dtype = rows.key_dtype;
  operands.key_rows = keys;
  operands.depth = rows.depth;
  for (int b = 0; b < blocks.blocks; ++b) {
    operands.keys = blocks.keys[b];
    Multiply(operands, keys, products.data());
    if (rows.softcap > 0) {
      CapValues(rows.softcap, rows.rows * keys, products.data());
    }
    const bool is_last = b + 1 == blocks.blocks && blocks.seen != nullptr;
    for (int q = 0; q < rows.rows; ++q) {
      Summarise(products.data() + q * keys, is_last ? blocks.seen[q] : keys,
                to.maxima[q * to.stride + b], to.sums[q * to.stride + b]);
    }
  }
}

void AddShares(const float* maxima, int64_t count, float* sums, float* shares) {
  const DF d;
  const VF maximum = hn::Set(d, *std::max_element(maxima, maxima + count));
  VF totals = hn::Zero(d);
  for (int64_t i = 0; i < count; i += kLanes) {
    const VF factor = Exp(d, hn::Sub(hn::LoadU(d, maxima + i), maximum));
    VF sum = hn::Mul(hn::LoadU(d, sums + i), factor);
    if (i + kLanes > count) {
      sum = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(count - i)),
                               sum);
    }
    totals = hn::Add(totals, sum);
    hn::StoreU(sum, d, sums + i);
  }
  const VF factor = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, totals));
  for (int64_t i = 0; i < count; i += kLanes) {
    hn::StoreU(
        hn::MulAdd(hn::LoadU(d, sums + i), factor, hn::LoadU(d, shares + i)), d,
        shares + i);
  }
}

void AddWeights(const float* scores, int count, float lse, float* columns,
                float* diagonals) {
  const DF d;
  for (int i = 0; i < count; i += kLanes) {
    VF weights = Exp(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, lse)));
    if (i + kLanes > count) {
      weights = hn::IfThenElseZero(
          hn::FirstN(d, static_cast<size_t>(count - i)), weights);
    }
    hn::StoreU(hn::Add(hn::LoadU(d, columns + i), weights), d, columns + i);
    hn::StoreU(hn::Add(hn::LoadU(d, diagonals + i), weights), d, diagonals + i);
  }
}

template <typename Element>
void AddRowsOf(const Element* rows, int count, int64_t depth, float* sum,
               float* unit_sum) {
  const DF d;
  for (int r = 0; r < count; ++r, rows += depth) {
    VF squares = hn::Zero(d);
    for (int64_t i = 0; i < depth; i += kLanes) {
      const VF value = LoadFloats(d, rows + i);
      squares = hn::MulAdd(value, value, squares);
    }
    const VF square = hn::SumOfLanes(d, squares);
    // Not "> 0": what is no number must come to light.
    const VF factor =
        hn::IfThenZeroElse(hn::Eq(square, hn::Zero(d)),
                           hn::Div(hn::Set(d, 1.0f), hn::Sqrt(square)));
    for (int64_t i = 0; i < depth; i += kLanes) {
      const VF value = LoadFloats(d, rows + i);
      hn::StoreU(hn::Add(hn::LoadU(d, sum + i), value), d, sum + i);
      hn::StoreU(hn::MulAdd(value, factor, hn::LoadU(d, unit_sum + i)), d,
                 unit_sum + i);
    }
  }
}

void AddRows(const std::byte* rows, DType dtype, int count, int64_t depth,
             float* sum, float* unit_sum) {
  if (dtype == DType::kBF16) {
    AddRowsOf(reinterpret_cast<const hwy::bfloat16_t*>(rows), count, depth, sum,
              unit_sum);
  } else {
    AddRowsOf(reinterpret_cast<const float*>(rows), count, depth, sum,
              unit_sum);
  }
}

template <typename Element>
void BoundRowsOf(const Element* rows, int count, int64_t depth, float* greatest,
                 float* least) {
  const hn::CappedTag<float, 8> d;
  using V = hn::Vec<decltype(d)>;
  for (int64_t i = 0; i < depth; i += static_cast<int64_t>(hn::Lanes(d))) {
    V most = LoadFloats(d, rows + i);
    V fewest = most;
    // Comparisons may lose what is no number; 0 times it stays.
    V nothing = hn::Zero(d);
    for (int r = 0; r < count; ++r) {
      const V value = LoadFloats(d, rows + r * depth + i);
      most = hn::Max(most, value);
      fewest = hn::Min(fewest, value);
      nothing = hn::MulAdd(value, hn::Zero(d), nothing);
    }
    hn::StoreU(hn::Add(most, nothing), d, greatest + i);
    hn::StoreU(hn::Add(fewest, nothing), d, least + i);
  }
}

void BoundRows(const std::byte* rows, DType dtype, int count, int64_t depth,
               float* greatest, float* least) {
  if (dtype == DType::kBF16) {
    BoundRowsOf(reinterpret_cast<const hwy::bfloat16_t*>(rows), count, depth,
                greatest, least);
  } else {
    BoundRowsOf(reinterpret_cast<const float*>(rows), count, depth, greatest,
                least);
  }
}

const SelectionKernels& TargetSelectionKernels() {
  static constexpr SelectionKernels kKernels = {
      &PackRows,  &SummariseBlocks, &Multiply, &CapValues, &Summarise,
      &AddShares, &AddWeights,      &AddRows,  &BoundRows};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sparseserve::cpu {

HWY_EXPORT(TargetSelectionKernels);

const SelectionKernels& SelectionKernelsFor(SimdLevel level) {
  return HWY_DISPATCH_TABLE(TargetSelectionKernels)[DispatchIndex(level)]();
}

}  // namespace sparseserve::cpu
#endif  // HWY_ONCE
