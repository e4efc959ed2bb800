#include "engine/backend/cpu/amx_operands.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "engine/backend/cpu/amx_target.h"
#include "engine/backend/cpu/amx_transpose-inl.h"

namespace sparseserve::cpu {
namespace {

constexpr int kTileElements = AmxScratch::kTileElements;

// Up to 32 dims of a stored row from `dim` on; 0 behind the last.
SPARSESERVE_AMX_INLINE __m512i LoadDims(const uint16_t* row, int dim,
                                        int head_dim) {
  const int left = std::min(head_dim - dim, 32);
  const __mmask32 seen =
      left == 32 ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1);
  return _mm512_maskz_loadu_epi16(seen, row + dim);
}

SPARSESERVE_AMX_INLINE void Fetch(const std::byte* from, int first_row,
                                  int rows, int head_dim) {
  const char* data = reinterpret_cast<const char*>(from);
  const int begin = first_row * head_dim * 2;
  const int end = begin + rows * head_dim * 2;
  for (int i = begin; i < end; i += 64) _mm_prefetch(data + i, _MM_HINT_T0);
}

alignas(64) constexpr uint16_t kLowPairs[32] = {
    0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};

}  // namespace

SPARSESERVE_AMX void PackAmxQueries(int rows, int head_dim,
                                    const AttentionScratch& scratch) {
  const int depth = AmxDepthTiles(head_dim) * 32;
  for (int r = 0; r < rows; ++r) {
    uint16_t* to = scratch.amx->queries + r * depth;
    for (int i = 0; i < depth; i += 16) {
      const int left = std::clamp(head_dim - i, 0, 16);
      const __mmask16 seen = static_cast<__mmask16>((1u << left) - 1);
      const __m512 from = _mm512_maskz_loadu_ps(seen, scratch.queries[r] + i);
      const __m256bh rounded = _mm512_cvtneps_pbh(from);
      std::memcpy(to + i, &rounded, sizeof(rounded));
    }
  }
}

SPARSESERVE_AMX void PackAmxKeys(const AttentionBlock& block, int slot,
                                 AmxScratch& amx) {
  const uint16_t* keys = reinterpret_cast<const uint16_t*>(block.keys);
  const int depth_tiles = AmxDepthTiles(block.head_dim);
  for (int first = 0; first < kBlockKeys; first += 16) {
    Fetch(block.next_keys, first, 16, block.head_dim);
    uint16_t* tile = amx.keys + (slot * kBlockKeys + first) / 16 * depth_tiles *
                                    kTileElements;
    for (int k = 0; k < depth_tiles; ++k, tile += kTileElements) {
      __m512i row[16];
      for (int i = 0; i < 16; ++i) {
        row[i] = first + i < block.loaded_keys
                     ? LoadDims(keys + (first + i) * block.head_dim, 32 * k,
                                block.head_dim)
                     : _mm512_setzero_si512();
      }
      TransposePairs(row);
      for (int i = 0; i < 16; ++i) {
        _mm512_store_si512(tile + i * 32, row[i]);
      }
    }
  }
}

SPARSESERVE_AMX void PackAmxValues(const AttentionBlock& block, int slot,
                                   AmxScratch& amx) {
  const uint16_t* values = reinterpret_cast<const uint16_t*>(block.values);
  const int dim_tiles = AmxDimTiles(block.head_dim);
  const __m512i low = _mm512_load_si512(kLowPairs);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int key = 0; key < kBlockKeys; key += 2) {
    Fetch(block.next_values, key, 2, block.head_dim);
    uint16_t* to = amx.values +
                   (slot * kBlockKeys + key) / 32 * dim_tiles * kTileElements +
                   key % 32 / 2 * 32;
    for (int t = 0; t < dim_tiles; t += 2) {
      __m512i row[2];
      for (int i = 0; i < 2; ++i) {
        row[i] = key + i < block.loaded_keys
                     ? LoadDims(values + (key + i) * block.head_dim, 16 * t,
                                block.head_dim)
                     : _mm512_setzero_si512();
      }
      _mm512_store_si512(to + t * kTileElements,
                         _mm512_permutex2var_epi16(row[0], low, row[1]));
      if (t + 1 == dim_tiles) continue;
      _mm512_store_si512(to + (t + 1) * kTileElements,
                         _mm512_permutex2var_epi16(row[0], high, row[1]));
    }
  }
}

}  // namespace sparseserve::cpu
