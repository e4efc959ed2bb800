#include "engine/backend/cpu/amx_attention.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/base/check.h"

// Every function below runs only where FindAmxAttentionKernels() says so.
#define SPARSESERVE_AMX                                                  \
  __attribute__((target(                                                 \
      "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16," \
      "fma")))
#define SPARSESERVE_AMX_INLINE \
  SPARSESERVE_AMX __attribute__((always_inline)) inline

namespace sparseserve::cpu {
namespace {

constexpr int kTileElements = AmxScratch::kTileElements;
constexpr int kKeys = AmxScratch::kKeys;
constexpr int kTileBytesPerRow = 64;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;

static_assert(kMaxPackedRows % kAmxRows == 0);

// Pairs of dims are the depth of the first product; of keys, the second's.
constexpr int DepthTiles(int head_dim) { return (head_dim + 31) / 32; }
constexpr int DimTiles(int head_dim) { return RowStride(head_dim) / 16; }

// Where there is no operation of these tiles, all are 16 rows of 64 bytes.
SPARSESERVE_AMX void ConfigureTiles() {
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  Config config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = kTileBytesPerRow;
    config.rows[tile] = 16;
  }
  // GCC 12 believes that the instruction reads eight bytes.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

SPARSESERVE_AMX void PackQueries(int rows, int head_dim,
                                 const AttentionScratch& scratch) {
  const int depth = DepthTiles(head_dim) * 32;
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

void Begin(int rows, int head_dim, AttentionScratch& scratch) {
  std::fill_n(scratch.maximum, rows, kMinusInfinity);
  std::fill_n(scratch.sum, rows, 0.0f);
  std::fill_n(scratch.output, rows * RowStride(head_dim), 0.0f);
  scratch.amx->blocks = 0;
  PackQueries(rows, head_dim, scratch);
}

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

// Keys behind `loaded` are read by no row and become 0.
SPARSESERVE_AMX void PackKeys(const AttentionBlock& block, int slot,
                              AmxScratch& amx) {
  const uint16_t* keys = reinterpret_cast<const uint16_t*>(block.keys);
  const int depth_tiles = DepthTiles(block.head_dim);
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

alignas(64) constexpr uint16_t kLowPairs[32] = {
    0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};

SPARSESERVE_AMX void PackValues(const AttentionBlock& block, int slot,
                                AmxScratch& amx) {
  const uint16_t* values = reinterpret_cast<const uint16_t*>(block.values);
  const int dim_tiles = DimTiles(block.head_dim);
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

void KeepVisible(const AttentionBlock& block, int slot,
                 const AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  amx.is_full[slot] = block.is_full;
  if (block.is_full) {
    std::fill_n(amx.visible[slot], block.rows, ~uint64_t{0});
    return;
  }
  for (int r = 0; r < block.rows; ++r) {
    const int begin = scratch.visible_begin[r];
    const int end = scratch.visible_end[r];
    uint64_t visible = 0;
    if (begin < end) {
      visible = (~uint64_t{0} >> (kBlockKeys - (end - begin))) << begin;
      if (block.has_bits) visible &= scratch.visible_bits[r];
    }
    amx.visible[slot][r] = visible;
  }
}

// scores[32, 64 blocks] = queries * keys^T.
SPARSESERVE_AMX void MultiplyKeys(int first_row, AmxScratch& amx) {
  const int depth_tiles = DepthTiles(amx.block.head_dim);
  const int stride = depth_tiles * 64;
  const uint16_t* queries = amx.queries + first_row * depth_tiles * 32;
  const uint16_t* keys = amx.keys;
  constexpr int kScoreStride = kKeys * sizeof(float);
  for (int key = 0; key < amx.blocks * kBlockKeys; key += 32) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < depth_tiles; ++k) {
      _tile_loadd(4, queries + k * 32, stride);
      _tile_loadd(6, keys + k * kTileElements, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, keys + (depth_tiles + k) * kTileElements, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, queries + 16 * depth_tiles * 32 + k * 32, stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    float* scores = amx.scores + key;
    _tile_stored(0, scores, kScoreStride);
    _tile_stored(1, scores + 16, kScoreStride);
    _tile_stored(2, scores + 16 * kKeys, kScoreStride);
    _tile_stored(3, scores + 16 * kKeys + 16, kScoreStride);
    keys += 2 * depth_tiles * kTileElements;
  }
}

// output[32, dims] += weights * values.
SPARSESERVE_AMX void MultiplyValues(int first_row, AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  const int dim_tiles = DimTiles(amx.block.head_dim);
  const int depth_tiles = amx.blocks * kBlockKeys / 32;
  const int columns = RowStride(amx.block.head_dim);
  const int stride = columns * static_cast<int>(sizeof(float));
  constexpr int kWeightStride = kKeys * sizeof(float);
  const char* weights = reinterpret_cast<const char*>(amx.scores);
  for (int t = 0; t < dim_tiles; t += 2) {
    float* output = scratch.output + first_row * columns + t * 16;
    const uint16_t* values = amx.values + t * kTileElements;
    const bool has_second = t + 1 < dim_tiles;
    _tile_loadd(0, output, stride);
    _tile_loadd(2, output + 16 * columns, stride);
    if (has_second) {
      _tile_loadd(1, output + 16, stride);
      _tile_loadd(3, output + 16 * columns + 16, stride);
    }
    for (int k = 0; k < depth_tiles; ++k) {
      _tile_loadd(4, weights + k * 64, kWeightStride);
      _tile_loadd(6, values, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, weights + 16 * kWeightStride + k * 64, kWeightStride);
      _tile_dpbf16ps(2, 5, 6);
      if (has_second) {
        _tile_loadd(7, values + kTileElements, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      values += dim_tiles * kTileElements;
    }
    _tile_stored(0, output, stride);
    _tile_stored(2, output + 16 * columns, stride);
    if (has_second) {
      _tile_stored(1, output + 16, stride);
      _tile_stored(3, output + 16 * columns + 16, stride);
    }
  }
}

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

// The greatest of a row's scores per lane, hidden ones replaced by -infinity.
// A NaN among them does not count.
template <bool kIsFull>
SPARSESERVE_AMX_INLINE __m512 HideAndFindGreatest(const AmxScratch& amx,
                                                  int row, float* scores) {
  const __m512 hidden = _mm512_set1_ps(kMinusInfinity);
  __m512 greatest[2] = {hidden, hidden};
  for (int slot = 0; slot < amx.blocks; ++slot) {
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
  }
  return Greatest(greatest[0], greatest[1]);
}

// Turns a row's scores into the weights 2^(factor * score - offset), in bf16.
// Returns their sums per lane, before they are rounded.
SPARSESERVE_AMX_INLINE __m512 Weigh(int columns, __m512 factor, float offset,
                                    float* scores) {
  const __m512 offsets = _mm512_set1_ps(offset);
  __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  uint16_t* weights = reinterpret_cast<uint16_t*>(scores);
  for (int i = 0; i < columns; i += 32) {
    const __m512 low =
        Exp2(_mm512_fmsub_ps(_mm512_load_ps(scores + i), factor, offsets));
    const __m512 high =
        Exp2(_mm512_fmsub_ps(_mm512_load_ps(scores + i + 16), factor, offsets));
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

// Turns the scores of 16 rows into weights exp(scaled score - new maximum) and
// updates the rows' maximum, sum and output. Rows behind the last are computed
// like the others, from whatever is there.
template <bool kIsFull>
SPARSESERVE_AMX_INLINE void SoftmaxRows(int first_row, float scale,
                                        float* scores,
                                        AttentionScratch& scratch) {
  const AmxScratch& amx = *scratch.amx;
  RowVectors vectors;
  for (int r = 0; r < 16; ++r) {
    vectors.rows[r] =
        HideAndFindGreatest<kIsFull>(amx, first_row + r, scores + r * kKeys);
  }
  const __m512 log2e = _mm512_set1_ps(kLog2E);
  const __m512 before = _mm512_loadu_ps(scratch.maximum + first_row);
  const __m512 maximum =
      Greatest(before, _mm512_mul_ps(_mm512_set1_ps(scale),
                                     AcrossLanes<Across::kGreatest>(vectors)));
  const __mmask16 grew = _mm512_cmp_ps_mask(before, maximum, _CMP_NEQ_UQ);
  const __m512 rescale = _mm512_mask_mov_ps(
      _mm512_set1_ps(1.0f), grew,
      Exp2(_mm512_mul_ps(_mm512_sub_ps(before, maximum), log2e)));
  // Where no key was seen yet all scores are -infinity, whose weights are 0.
  const __mmask16 saw =
      _mm512_cmp_ps_mask(maximum, _mm512_set1_ps(kMinusInfinity), _CMP_NEQ_UQ);
  alignas(64) float offsets[16];
  _mm512_store_ps(offsets, _mm512_maskz_mul_ps(saw, maximum, log2e));
  const __m512 factor = _mm512_set1_ps(scale * kLog2E);
  for (int r = 0; r < 16; ++r) {
    vectors.rows[r] =
        Weigh(amx.blocks * kBlockKeys, factor, offsets[r], scores + r * kKeys);
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

SPARSESERVE_AMX void WeighRows(int first_row, AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  float scale = amx.block.scale;
  if (amx.block.softcap > 0) {
    for (int r = 0; r < kAmxRows; ++r) {
      amx.cap_scores(amx.blocks * kBlockKeys, scale, amx.block.softcap,
                     amx.scores + r * kKeys);
    }
    scale = 1;
  }
  const bool is_full = std::all_of(amx.is_full, amx.is_full + amx.blocks,
                                   [](bool full) { return full; });
  for (int r = 0; r < kAmxRows; r += 16) {
    float* scores = amx.scores + r * kKeys;
    if (is_full) {
      SoftmaxRows<true>(first_row + r, scale, scores, scratch);
    } else {
      SoftmaxRows<false>(first_row + r, scale, scores, scratch);
    }
  }
}

// Attends to the blocks held and lets go of them.
SPARSESERVE_AMX void AddHeldBlocks(AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  if (amx.blocks == 0) return;
  // oneDNN's products configure the same tiles otherwise.
  ConfigureTiles();
  for (int row = 0; row < amx.block.rows; row += kAmxRows) {
    MultiplyKeys(row, amx);
    WeighRows(row, scratch);
    MultiplyValues(row, scratch);
  }
  _tile_release();
  amx.blocks = 0;
}

void AddBlock(const AttentionBlock& block, AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  SPARSESERVE_DCHECK(block.dtype == DType::kBF16);
  const int group = block.index / kAmxBlocks;
  if (amx.blocks > 0 && amx.group != group) AddHeldBlocks(scratch);
  amx.group = group;
  amx.block = block;
  const int slot = amx.blocks++;
  PackKeys(block, slot, amx);
  PackValues(block, slot, amx);
  KeepVisible(block, slot, scratch);
}

void EndStretch(int /*rows*/, int /*head_dim*/, AttentionScratch& scratch) {
  AddHeldBlocks(scratch);
}

SPARSESERVE_AMX float FinishRow(int row, int head_dim,
                                const AttentionScratch& scratch,
                                float* output) {
  const float* from = scratch.output + row * RowStride(head_dim);
  const float sum = scratch.sum[row];
  const __m256 factor = _mm256_set1_ps(sum == 0.0f ? 0.0f : 1.0f / sum);
  for (int i = 0; i < head_dim; i += 8) {
    _mm256_storeu_ps(output + i,
                     _mm256_mul_ps(_mm256_loadu_ps(from + i), factor));
  }
  return sum == 0.0f ? kMinusInfinity : scratch.maximum[row] + std::log(sum);
}

// Linux keeps the tiles' registers from a process until it asks for them.
bool RequestTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const AttentionKernels* FindAmxAttentionKernels() {
  static constexpr AttentionKernels kKernels = {&Begin, &AddBlock, &EndStretch,
                                                &FinishRow, nullptr};
  return RequestTiles() ? &kKernels : nullptr;
}

}  // namespace sparseserve::cpu
