// Scores of a few rows with keys as they are stored, compiled once per SIMD
// target. Include after hwy/highway.h.

// Highway's guard for code that is included once per target.
#if defined(SPARSESERVE_CPU_ROW_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SPARSESERVE_CPU_ROW_SCORES_INL_H_
#undef SPARSESERVE_CPU_ROW_SCORES_INL_H_
#else
#define SPARSESERVE_CPU_ROW_SCORES_INL_H_
#endif

#include <cstdint>

#include "engine/backend/cpu/attention_kernels.h"
#include "engine/backend/cpu/float_vectors-inl.h"
#include "engine/backend/cpu/lane_sums-inl.h"
#include "engine/backend/cpu/transpose-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sparseserve::cpu {
namespace HWY_NAMESPACE {

// Elements of a key that are loaded together.
constexpr int kPairedLanes = 2 * kLanes;

// Key elements i, ..., i + kPairedLanes - 1 as two vectors, and the same
// elements of a query: halves of floats, even and odd ones of bf16, which
// then need no widening.
HWY_INLINE void LoadPair(const float* from, VF& first, VF& second) {
  first = hn::LoadU(DF(), from);
  second = hn::LoadU(DF(), from + kLanes);
}
HWY_INLINE void LoadPair(const hwy::bfloat16_t* from, VF& first, VF& second) {
  const hn::RebindToUnsigned<DF> du;
  const auto pairs = hn::LoadU(du, reinterpret_cast<const uint32_t*>(from));
  first = hn::BitCast(DF(), hn::ShiftLeft<16>(pairs));
  second = hn::BitCast(DF(), hn::And(pairs, hn::Set(du, 0xFFFF0000u)));
}
template <typename Element>
HWY_INLINE void LoadQueryPair(const float* from, VF& first, VF& second) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    LoadPair(from, first, second);
  } else {
    hn::LoadInterleaved2(DF(), from, first, second);
  }
}

// Lane i is the sum of the lanes of v[i].
#if HWY_TARGET == HWY_SCALAR  // has one lane
HWY_INLINE VF SumEach(const VF* v) { return v[0]; }
#else
HWY_INLINE VF SumEach(const VF* v) {
  constexpr int kBlocks = kLanes / 4;
  VF quads[kBlocks];
  for (int g = 0; g < kBlocks; ++g) {
    quads[g] = SumBlocks(v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]);
  }
  TransposeBlocks(DF(), quads);
  VF sum = quads[0];
  for (int b = 1; b < kBlocks; ++b) sum = hn::Add(sum, quads[b]);
  return sum;
}
#endif

// scores[r * kBlockKeys + k] = queries[r] . keys[k] for every key up to the
// next multiple of 16 of `loaded_keys`; those behind are not read, and score 0.
// Transposing the keys, for products of whole vectors of them, would take
// longer than these products themselves. REQUIRES: head_dim is a multiple of
// kPairedLanes. Calls ahead(first, count) for so many elements of the next
// keys, in order.
template <int kRows, typename Element, class Ahead>
void ScoreRows(const float* const* queries, const Element* keys,
               int loaded_keys, int head_dim, const Ahead& ahead,
               float* scores) {
  const DF d;
  // In the order of LoadQueryPair().
  alignas(64) float ordered[kRows * kMaxHeadDim];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < head_dim; i += kPairedLanes) {
      VF first, second;
      LoadQueryPair<Element>(queries[r] + i, first, second);
      hn::Store(first, d, ordered + r * head_dim + i);
      hn::Store(second, d, ordered + r * head_dim + i + kLanes);
    }
  }
  const int columns = (loaded_keys + 15) / 16 * 16;
  for (int key = 0; key < columns; key += kLanes) {
    VF products[kRows][kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      VF sums[kRows];
      for (int r = 0; r < kRows; ++r) sums[r] = hn::Zero(d);
      if (key + lane < loaded_keys) {
        const Element* from = keys + (key + lane) * head_dim;
        ahead((key + lane) * head_dim, head_dim);
        for (int i = 0; i < head_dim; i += kPairedLanes) {
          VF first, second;
          LoadPair(from + i, first, second);
          for (int r = 0; r < kRows; ++r) {
            const float* query = ordered + r * head_dim + i;
            sums[r] = hn::MulAdd(hn::Load(d, query), first, sums[r]);
            sums[r] = hn::MulAdd(hn::Load(d, query + kLanes), second, sums[r]);
          }
        }
      }
      for (int r = 0; r < kRows; ++r) products[r][lane] = sums[r];
    }
    for (int r = 0; r < kRows; ++r) {
      hn::Store(SumEach(products[r]), d, scores + r * kBlockKeys + key);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace sparseserve::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
