#pragma once

// Include where functions are marked by amx_target.h.

#include <immintrin.h>

#include "engine/backend/cpu/amx_target.h"

namespace sparseserve::cpu {

// 16 rows of 16 pairs become 16 rows of as many columns.
SPARSESERVE_AMX_INLINE void TransposePairs(__m512i (&row)[16]) {
  __m512i mixed[16];
  for (int i = 0; i < 16; i += 2) {
    mixed[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    mixed[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    row[i] = _mm512_unpacklo_epi64(mixed[i], mixed[i + 2]);
    row[i + 1] = _mm512_unpackhi_epi64(mixed[i], mixed[i + 2]);
    row[i + 2] = _mm512_unpacklo_epi64(mixed[i + 1], mixed[i + 3]);
    row[i + 3] = _mm512_unpackhi_epi64(mixed[i + 1], mixed[i + 3]);
  }
  // row[4 q + c] holds, of rows 4 q ... 4 q + 3, the pairs c, c + 4, c + 8 and
  // c + 12.
  for (int c = 0; c < 4; ++c) {
    mixed[c] = _mm512_shuffle_i32x4(row[c], row[4 + c], 0x88);
    mixed[4 + c] = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0x88);
    mixed[8 + c] = _mm512_shuffle_i32x4(row[c], row[4 + c], 0xDD);
    mixed[12 + c] = _mm512_shuffle_i32x4(row[8 + c], row[12 + c], 0xDD);
  }
  for (int c = 0; c < 4; ++c) {
    row[c] = _mm512_shuffle_i32x4(mixed[c], mixed[4 + c], 0x88);
    row[8 + c] = _mm512_shuffle_i32x4(mixed[c], mixed[4 + c], 0xDD);
    row[4 + c] = _mm512_shuffle_i32x4(mixed[8 + c], mixed[12 + c], 0x88);
    row[12 + c] = _mm512_shuffle_i32x4(mixed[8 + c], mixed[12 + c], 0xDD);
  }
}

}  // namespace sparseserve::cpu
