// Products of a few rows with a matrix, compiled once per SIMD target. Include
// after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_TILE_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_TILE_PRODUCTS_INL_H_
#undef SPARSESERVE_CPU_TILE_PRODUCTS_INL_H_
#else
#define SPARSESERVE_CPU_TILE_PRODUCTS_INL_H_
#endif

#include "engine/backend/cpu/float_vectors-inl.h"
#include "engine/backend/cpu/simd_math-inl.h"
#include "engine/backend/cpu/transpose-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Register tile of the two products: rows by vectors of columns. 24 sums of
// AVX-512's 32 registers, 12 of the 16 elsewhere.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes >= 16 ? 4 : 2;

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

// scores[i] = softcap * tanh(scale * scores[i] / softcap)
inline HWY_NOINLINE void CapScores(int columns, float scale, float softcap,
                                   float* scores) {
  const DF d;
  const VF inverse = hn::Set(d, scale / softcap);
  const VF cap = hn::Set(d, softcap);
  for (int i = 0; i < columns; i += kLanes) {
    hn::StoreU(SoftCap(d, hn::LoadU(d, scores + i), inverse, cap), d,
               scores + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
