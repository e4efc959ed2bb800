// Transposition of key rows, compiled once per SIMD target. Include after
// hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_TRANSPOSE_INL_H_
#undef SPARSESERVE_CPU_TRANSPOSE_INL_H_
#else
#define SPARSESERVE_CPU_TRANSPOSE_INL_H_
#endif

#include <cstdint>

#include "engine/backend/cpu/attention_kernels.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Float vectors from float or bf16 elements.
template <typename Element, class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const Element* from) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    return hn::LoadU(d, from);
  } else {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<Element, D>(), from));
  }
}

#if HWY_TARGET == HWY_SCALAR  // has no lanes to exchange

template <typename Element, class D>
HWY_INLINE void TransposeSquare(D d, const Element* from,
                                int64_t /*from_stride*/, int rows, float* to,
                                int64_t /*to_stride*/) {
  hn::StoreU(rows > 0 ? LoadFloats(d, from) : hn::Zero(d), d, to);
}

#else

// Blocks of 128 bits: block b of row g becomes block g of row b.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void TransposeBlocks(D d, V (&v)[hn::MaxLanes(D()) / 4]) {
  constexpr int kBlocks = static_cast<int>(hn::MaxLanes(D())) / 4;
  if constexpr (kBlocks == 2) {
    const V low = hn::ConcatLowerLower(d, v[1], v[0]);
    v[1] = hn::ConcatUpperUpper(d, v[1], v[0]);
    v[0] = low;
  } else if constexpr (kBlocks == 4) {
    const V even01 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(v[1]), v[0]);
    const V odd01 = hn::OddEvenBlocks(v[1], hn::SwapAdjacentBlocks(v[0]));
    const V even23 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(v[3]), v[2]);
    const V odd23 = hn::OddEvenBlocks(v[3], hn::SwapAdjacentBlocks(v[2]));
    v[0] = hn::ConcatLowerLower(d, even23, even01);
    v[1] = hn::ConcatLowerLower(d, odd23, odd01);
    v[2] = hn::ConcatUpperUpper(d, even23, even01);
    v[3] = hn::ConcatUpperUpper(d, odd23, odd01);
  }
}

// to[i, r] = from[r, i] for as many rows and columns as `d` has lanes. Rows
// from `rows` on are not read and count as 0.
template <typename Element, class D, class V = hn::Vec<D>>
HWY_INLINE void TransposeSquare(D d, const Element* from, int64_t from_stride,
                                int rows, float* to, int64_t to_stride) {
  constexpr int kSide = static_cast<int>(hn::MaxLanes(D()));
  constexpr int kBlocks = kSide / 4;
  // [i % 4][r / 4], with i / 4 as the block in the vector.
  V quads[4][kBlocks];
  for (int g = 0; g < kBlocks; ++g) {
    V row[4];
    for (int r = 0; r < 4; ++r) {
      row[r] = 4 * g + r < rows
                   ? LoadFloats(d, from + (4 * g + r) * from_stride)
                   : hn::Zero(d);
    }
    const V low01 = hn::InterleaveLower(d, row[0], row[1]);
    const V low23 = hn::InterleaveLower(d, row[2], row[3]);
    const V high01 = hn::InterleaveUpper(d, row[0], row[1]);
    const V high23 = hn::InterleaveUpper(d, row[2], row[3]);
    const hn::Repartition<uint64_t, D> d64;
    const auto pairs = [&](V v) HWY_ATTR { return hn::BitCast(d64, v); };
    const auto floats = [&](auto v) HWY_ATTR { return hn::BitCast(d, v); };
    quads[0][g] = floats(hn::InterleaveLower(d64, pairs(low01), pairs(low23)));
    quads[1][g] = floats(hn::InterleaveUpper(d64, pairs(low01), pairs(low23)));
    quads[2][g] =
        floats(hn::InterleaveLower(d64, pairs(high01), pairs(high23)));
    quads[3][g] =
        floats(hn::InterleaveUpper(d64, pairs(high01), pairs(high23)));
  }
  for (int i = 0; i < 4; ++i) {
    TransposeBlocks(d, quads[i]);
    for (int b = 0; b < kBlocks; ++b) {
      hn::StoreU(quads[i][b], d, to + (4 * b + i) * to_stride);
    }
  }
}

#endif

// to[i, r] = from[r, i] for `columns` (a multiple of 8) columns and all rows up
// to the next multiple of 16 of `rows`; those behind `rows` become 0. Calls
// ahead(first, count) now and then for so many elements of the next matrix,
// in order.
template <typename Element, class Ahead>
void TransposeRows(const Element* from, int rows, int columns, float* to,
                   const Ahead& ahead) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 8> narrow;
  constexpr int kWide = static_cast<int>(hn::MaxLanes(wide));
  constexpr int kNarrow = static_cast<int>(hn::MaxLanes(narrow));
  const int padded_rows = (rows + 15) / 16 * 16;
  int announced = 0;
  int i = 0;
  for (; i + kWide <= columns; i += kWide) {
    for (int r = 0; r < padded_rows; r += kWide) {
      ahead(announced, kWide * kWide);
      announced += kWide * kWide;
      TransposeSquare(wide, from + r * columns + i, columns, rows - r,
                      to + i * kBlockKeys + r, kBlockKeys);
    }
  }
  for (; i < columns; i += kNarrow) {
    for (int r = 0; r < padded_rows; r += kNarrow) {
      TransposeSquare(narrow, from + r * columns + i, columns, rows - r,
                      to + i * kBlockKeys + r, kBlockKeys);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
