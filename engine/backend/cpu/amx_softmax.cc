#include "engine/backend/cpu/amx_softmax.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "engine/backend/cpu/amx_target.h"
#include "engine/backend/cpu/amx_transpose-inl.h"

namespace sparseserve::cpu {
namespace {

constexpr int kKeys = AmxScratch::kKeys;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;

// 2^x for x <= 0 and a little above, 0 for -infinity, NaN for NaN: 2^(x -
// floor(x)) by its polynomial of least relative error over [0, 1], 2.6e-6.
SPARSESERVE_AMX_INLINE __m512 Exp2(__m512 x) {
  constexpr int kFromFloor = 0x09;
  const __m512 r = _mm512_reduce_ps(x, kFromFloor);
  __m512 p = _mm512_set1_ps(0.013534168f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.052011464f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24144275f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69300383f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0000026f));
  return _mm512_scalef_ps(p, x);
}

// Of two operands one of which is NaN, the first is taken.
SPARSESERVE_AMX_INLINE __m512 Greatest(__m512 a, __m512 b) {
  return _mm512_max_ps(b, a);
}

// What of 16 rows stands in the lanes of 16 vectors.
struct RowVectors {
  __m512 rows[16];
};

enum class Across { kSum, kGreatest };

// Lane r: the sum, or the greatest, of the lanes of rows[r].
template <Across kWhat>
SPARSESERVE_AMX_INLINE __m512 AcrossLanes(const RowVectors& vectors) {
  __m512i turned[16];
  for (int i = 0; i < 16; ++i) {
    turned[i] = _mm512_castps_si512(vectors.rows[i]);
  }
  TransposePairs(turned);
  __m512 result = _mm512_castsi512_ps(turned[0]);
  for (int i = 1; i < 16; ++i) {
    const __m512 next = _mm512_castsi512_ps(turned[i]);
    result = kWhat == Across::kSum ? _mm512_add_ps(result, next)
                                   : Greatest(result, next);
  }
  return result;
}

// The greatest of a row's scores of a block per lane, hidden ones replaced by
// -infinity. A NaN among them does not count.
template <bool kIsFull>
SPARSESERVE_AMX_INLINE __m512 HideAndFindGreatest(const AmxScratch& amx,
                                                  int slot, int row,
                                                  float* scores) {
  const __m512 hidden = _mm512_set1_ps(kMinusInfinity);
  __m512 greatest[2] = {hidden, hidden};
  const uint64_t visible = kIsFull ? 0 : amx.visible[slot][row];
  for (int i = 0; i < kBlockKeys; i += 16) {
    float* at = scores + slot * kBlockKeys + i;
    __m512 score = _mm512_load_ps(at);
    if constexpr (!kIsFull) {
      score = _mm512_mask_mov_ps(hidden, static_cast<__mmask16>(visible >> i),
                                 score);
      _mm512_store_ps(at, score);
    }
    greatest[i / 16 % 2] = Greatest(greatest[i / 16 % 2], score);
  }
  return Greatest(greatest[0], greatest[1]);
}

// Lane r: the greatest of row r's scores of blocks first_slot ... end_slot - 1
// of those held, likewise.
template <bool kIsFull>
SPARSESERVE_AMX_INLINE __m512 GreatestOfRows(const AmxScratch& amx,
                                             int first_slot, int end_slot,
                                             int first_row, float* scores) {
  RowVectors vectors;
  for (int r = 0; r < 16; ++r) {
    __m512 greatest = _mm512_set1_ps(kMinusInfinity);
    for (int slot = first_slot; slot < end_slot; ++slot) {
      greatest =
          Greatest(greatest, HideAndFindGreatest<kIsFull>(
                                 amx, slot, first_row + r, scores + r * kKeys));
    }
    vectors.rows[r] = greatest;
  }
  return AcrossLanes<Across::kGreatest>(vectors);
}

// Which of 16 rows see a key of the blocks kept.
template <bool kIsFull>
SPARSESERVE_AMX_INLINE __mmask16 SeeingRows(const AmxScratch& amx,
                                            int first_row) {
  if constexpr (kIsFull) return 0xFFFF;
  uint32_t rows = 0;
  for (int r = 0; r < 16; ++r) {
    uint64_t visible = 0;
    for (int i = 0; i < amx.kept_blocks; ++i) {
      visible |= amx.visible[amx.kept[i]][first_row + r];
    }
    rows |= (visible != 0 ? 1u : 0u) << r;
  }
  return static_cast<__mmask16>(rows);
}

// Turns a row's scores of the blocks kept into the weights 2^(factor * (score -
// offset)), in bf16. An offset that is the greatest score has a weight of 1,
// however great it is. Returns their sums per lane, before they are rounded.
SPARSESERVE_AMX_INLINE __m512 Weigh(const AmxScratch& amx, __m512 factor,
                                    float offset, float* scores) {
  const __m512 offsets = _mm512_set1_ps(offset);
  __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  uint16_t* weights = reinterpret_cast<uint16_t*>(scores);
  for (int column = 0; column < amx.kept_blocks * kBlockKeys; column += 32) {
    const int i =
        amx.kept[column / kBlockKeys] * kBlockKeys + column % kBlockKeys;
    const __m512 low = Exp2(_mm512_mul_ps(
        _mm512_sub_ps(_mm512_load_ps(scores + i), offsets), factor));
    const __m512 high = Exp2(_mm512_mul_ps(
        _mm512_sub_ps(_mm512_load_ps(scores + i + 16), offsets), factor));
    sums[0] = _mm512_add_ps(sums[0], low);
    sums[1] = _mm512_add_ps(sums[1], high);
    const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
    std::memcpy(weights + i, &rounded, sizeof(rounded));
  }
  return _mm512_add_ps(sums[0], sums[1]);
}

SPARSESERVE_AMX_INLINE void ScaleOutput(int columns, float factor,
                                        float* output) {
  for (int i = 0; i < columns; i += 16) {
    _mm512_storeu_ps(output + i, _mm512_mul_ps(_mm512_loadu_ps(output + i),
                                               _mm512_set1_ps(factor)));
  }
}

// Of 16 rows, whose greatest scores up to the blocks held are `maximum`.
template <bool kIsFull>
SPARSESERVE_AMX_INLINE void SoftmaxRows(int first_row, __m512 maximum,
                                        float* scores,
                                        AttentionScratch& scratch) {
  const AmxScratch& amx = *scratch.amx;
  const __m512 factor = _mm512_set1_ps(scratch.scale * kLog2E);
  const __m512 before = _mm512_loadu_ps(scratch.maximum + first_row);
  const __mmask16 grew = _mm512_cmp_ps_mask(before, maximum, _CMP_NEQ_UQ);
  const __m512 rescale = _mm512_mask_mov_ps(
      _mm512_set1_ps(1.0f), grew,
      Exp2(_mm512_mul_ps(_mm512_sub_ps(before, maximum), factor)));
  // Of a row that has seen no key all scores are -infinity, and their weights
  // 0.
  const __mmask16 saw =
      _mm512_cmp_ps_mask(maximum, _mm512_set1_ps(kMinusInfinity), _CMP_NEQ_UQ) |
      SeeingRows<kIsFull>(amx, first_row);
  alignas(64) float offsets[16];
  _mm512_store_ps(offsets, _mm512_maskz_mov_ps(saw, maximum));
  RowVectors vectors;
  for (int r = 0; r < 16; ++r) {
    vectors.rows[r] = Weigh(amx, factor, offsets[r], scores + r * kKeys);
  }
  const __m512 added = AcrossLanes<Across::kSum>(vectors);
  const __m512 sum = _mm512_loadu_ps(scratch.sum + first_row);
  _mm512_storeu_ps(scratch.sum + first_row,
                   _mm512_fmadd_ps(sum, rescale, added));
  _mm512_storeu_ps(scratch.maximum + first_row, maximum);
  alignas(64) float rescales[16];
  _mm512_store_ps(rescales, rescale);
  const int stride = RowStride(amx.block.head_dim);
  for (uint32_t rows = grew; rows != 0; rows &= rows - 1) {
    const int r = std::countr_zero(rows);
    ScaleOutput(stride, rescales[r], scratch.output + (first_row + r) * stride);
  }
}

// Whether one of 16 rows has a score of a block that is no number.
SPARSESERVE_AMX_INLINE bool HasNan(int slot, __mmask16 rows,
                                   const float* scores) {
  __mmask16 found = 0;
  for (uint32_t left = rows; left != 0; left &= left - 1) {
    const float* row = scores + std::countr_zero(left) * kKeys;
    for (int i = 0; i < kBlockKeys; i += 16) {
      const __m512 score = _mm512_load_ps(row + slot * kBlockKeys + i);
      found |= _mm512_cmp_ps_mask(score, score, _CMP_UNORD_Q);
    }
  }
  return found != 0;
}

// Bit s: 16 rows, those from `rows` on not counted, may leave out block s of
// those held. `maximum` is of their scores before, and becomes that of all.
template <bool kIsFull>
SPARSESERVE_AMX_INLINE uint32_t
NegligibleBlocks(int first_row, int rows, const AttentionScratch& scratch,
                 float* scores, __m512& maximum) {
  const AmxScratch& amx = *scratch.amx;
  const uint32_t counted =
      first_row < rows ? 0xFFFFu >> (16 - std::min(rows - first_row, 16)) : 0;
  const __m512 distance = _mm512_set1_ps(amx.block.skip_below / scratch.scale);
  uint32_t negligible = 0;
  for (int slot = 0; slot < amx.blocks; ++slot) {
    const __m512 greatest =
        GreatestOfRows<kIsFull>(amx, slot, slot + 1, first_row, scores);
    const __mmask16 keeps = _mm512_cmp_ps_mask(
        greatest, _mm512_add_ps(maximum, distance), _CMP_NLT_UQ);
    if ((keeps & counted) == 0 &&
        !HasNan(slot, static_cast<__mmask16>(counted), scores)) {
      negligible |= 1u << slot;
    }
    maximum = Greatest(maximum, greatest);
  }
  return negligible;
}

// Of the blocks held, all but those whose bits are set are kept.
void KeepAllBut(uint32_t skipped, AmxScratch& amx) {
  amx.kept_blocks = 0;
  for (int slot = 0; slot < amx.blocks; ++slot) {
    if ((skipped >> slot & 1) == 0) amx.kept[amx.kept_blocks++] = slot;
  }
}

template <bool kIsFull>
SPARSESERVE_AMX_INLINE void WeighRows(int first_row,
                                      AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  const bool may_skip = amx.block.skip_below > kNoSkip;
  uint32_t skipped = may_skip ? (1u << amx.blocks) - 1 : 0;
  __m512 maxima[kAmxRows / 16];
  for (int half = 0; half < kAmxRows / 16; ++half) {
    const int row = first_row + half * 16;
    float* scores = amx.scores + half * 16 * kKeys;
    __m512& maximum = maxima[half];
    maximum = _mm512_loadu_ps(scratch.maximum + row);
    if (may_skip) {
      skipped &= NegligibleBlocks<kIsFull>(row, amx.block.rows, scratch, scores,
                                           maximum);
    } else {
      maximum = Greatest(
          maximum, GreatestOfRows<kIsFull>(amx, 0, amx.blocks, row, scores));
    }
  }
  KeepAllBut(skipped, amx);
  scratch.skipped += int64_t{std::popcount(skipped)} *
                     std::min(kAmxRows, amx.block.rows - first_row);
  if (amx.kept_blocks == 0) return;
  for (int half = 0; half < kAmxRows / 16; ++half) {
    SoftmaxRows<kIsFull>(first_row + half * 16, maxima[half],
                         amx.scores + half * 16 * kKeys, scratch);
  }
}

}  // namespace

SPARSESERVE_AMX void WeighAmxRows(int first_row, AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  if (amx.block.softcap > 0) {
    for (int r = 0; r < kAmxRows; ++r) {
      amx.cap_scores(amx.blocks * kBlockKeys, amx.block.scale,
                     amx.block.softcap, amx.scores + r * kKeys);
    }
  }
  const bool is_full = std::all_of(amx.is_full, amx.is_full + amx.blocks,
                                   [](bool full) { return full; });
  if (is_full) {
    WeighRows<true>(first_row, scratch);
  } else {
    WeighRows<false>(first_row, scratch);
  }
}

}  // namespace sparseserve::cpu
