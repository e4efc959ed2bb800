#include "engine/backend/cpu/amx_selection.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "engine/backend/cpu/amx_target.h"
#include "engine/backend/cpu/amx_tiles-inl.h"
#include "engine/backend/cpu/amx_transpose-inl.h"

namespace sparseserve::cpu {
namespace {

constexpr int kDepth = 32;                  // elements of a row of a tile
constexpr int kColumns = 16;                // query rows of a tile
constexpr int kTileLines = 16;              // of packed queries
constexpr int kPairColumns = 2 * kColumns;  // of products, side by side
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504f;

const SelectionKernels& Exact() {
  return SelectionKernelsFor(SimdLevel::kAvx512);
}

// Query rows become columns: tile (c, s) has elements 32 s ... 32 s + 31 of
// rows 16 c ... 16 c + 15, pairs of elements one below the other, zeros for
// rows that are not there.
SPARSESERVE_AMX void PackTiles(const SummaryRows& rows, TileLine* packed) {
  const auto steps = static_cast<int>(rows.depth / kDepth);
  for (int first = 0; first < rows.rows; first += kColumns) {
    for (int s = 0; s < steps; ++s, packed += kTileLines) {
      __m512i lines[16];
      for (int i = 0; i < 16; ++i) {
        if (first + i >= rows.rows) {
          lines[i] = _mm512_setzero_si512();
          continue;
        }
        const float* from =
            rows.queries.data() + (first + i) * rows.depth + s * kDepth;
        const __m512bh rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16),
                                                     _mm512_loadu_ps(from));
        std::memcpy(&lines[i], &rounded, sizeof(rounded));
      }
      TransposePairs(lines);
      for (int i = 0; i < 16; ++i) _mm512_store_si512(packed + i, lines[i]);
    }
  }
}

void PackRows(SummaryRows& rows) {
  if (rows.key_dtype != DType::kBF16 || rows.depth % kDepth != 0) {
    Exact().pack_rows(rows);
    return;
  }
  const int64_t tiles =
      (rows.rows + kColumns - 1) / kColumns * (rows.depth / kDepth);
  rows.packed.resize(tiles * kTileLines);
  PackTiles(rows, rows.packed.data());
}

// Products of all keys of two blocks, or of the same one twice, and of two
// tiles of query rows, or likewise: products[block][key][32 columns]. REQUIRES:
// tiles 0 to 5 have `tile_keys` rows.
SPARSESERVE_AMX void MultiplyBlocks(const SummaryRows& rows,
                                    const std::byte* const (&keys)[2],
                                    int key_rows, int tile_keys,
                                    const TileLine* const (&queries)[2],
                                    float* products) {
  constexpr int kTo = kPairColumns * sizeof(float);
  const auto stride = static_cast<int>(rows.depth * 2);
  const auto steps = static_cast<int>(rows.depth / kDepth);
  for (int key = 0; key < key_rows; key += tile_keys) {
    const std::byte* const first = keys[0] + int64_t{key} * stride;
    const std::byte* const second = keys[1] + int64_t{key} * stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int s = 0; s < steps; ++s) {
      _tile_loadd(4, first + s * 64, stride);
      _tile_loadd(6, queries[0] + s * kTileLines, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, second + s * 64, stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_loadd(7, queries[1] + s * kTileLines, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    float* const to = products + key * kPairColumns;
    float* const to_second = to + key_rows * kPairColumns;
    _tile_stored(0, to, kTo);
    _tile_stored(1, to + kColumns, kTo);
    _tile_stored(2, to_second, kTo);
    _tile_stored(3, to_second + kColumns, kTo);
  }
}

// 2^x for x <= 0, 0 for -infinity, NaN for NaN: the power series around the
// next integer, to a relative error of 2e-7.
SPARSESERVE_AMX_INLINE __m512 Exp2(__m512 x) {
  const __m512 whole =
      _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.5403530e-4f);  // ln(2)^6 / 6!
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3333558e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.6181291e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24022651f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69314718f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

struct ColumnSummaries {
  __m512 maxima;
  __m512 sums;
};

// Of 16 columns, [keys][32], `factor` > 0 times which are scores. Lane i sees
// the first seen[i] keys.
SPARSESERVE_AMX_INLINE ColumnSummaries SummariseColumns(const float* columns,
                                                        int keys, float factor,
                                                        __m512i seen) {
  __m512 greatest = _mm512_set1_ps(kMinusInfinity);
  for (int k = 0; k < keys; ++k) {
    const __mmask16 sees = _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32(k));
    // Of a NaN and a number, the second operand is taken.
    greatest = _mm512_mask_max_ps(
        greatest, sees, _mm512_loadu_ps(columns + k * kPairColumns), greatest);
  }
  const __m512 exponents = _mm512_set1_ps(factor * kLog2E);
  __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int k = 0; k < keys; ++k) {
    const __mmask16 sees = _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32(k));
    const __m512 below =
        _mm512_sub_ps(_mm512_loadu_ps(columns + k * kPairColumns), greatest);
    sums[k % 2] = _mm512_mask_add_ps(sums[k % 2], sees, sums[k % 2],
                                     Exp2(_mm512_mul_ps(below, exponents)));
  }
  return {_mm512_mul_ps(greatest, _mm512_set1_ps(factor)),
          _mm512_add_ps(sums[0], sums[1])};
}

// Of block `block`, whose products with query rows first_row ... first_row + 31
// are given.
SPARSESERVE_AMX void SummariseProducts(const SummaryRows& rows,
                                       const SummaryBlocks& blocks, int block,
                                       int first_row, float* products,
                                       const Summaries& to) {
  float factor = rows.factor;
  if (rows.softcap > 0) {
    const int count = blocks.key_rows * kPairColumns;
    for (int i = 0; i < count; ++i) products[i] *= factor;
    Exact().soft_cap(rows.softcap, count, products);
    factor = 1;
  }
  const bool is_last = block + 1 == blocks.blocks && blocks.seen != nullptr;
  const __m512i lanes = _mm512_mullo_epi32(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
      _mm512_set1_epi32(static_cast<int>(to.stride)));
  for (int half = 0; half < 2; ++half) {
    const int first = first_row + half * kColumns;
    const int count = std::min(rows.rows - first, kColumns);
    if (count <= 0) return;
    const auto there = static_cast<__mmask16>((1u << count) - 1);
    const __m512i all = _mm512_set1_epi32(blocks.key_rows);
    const __m512i seen =
        is_last ? _mm512_mask_loadu_epi32(all, there, blocks.seen + first)
                : all;
    const ColumnSummaries found = SummariseColumns(
        products + half * kColumns, blocks.key_rows, factor, seen);
    _mm512_mask_i32scatter_ps(to.maxima + first * to.stride + block, there,
                              lanes, found.maxima, sizeof(float));
    _mm512_mask_i32scatter_ps(to.sums + first * to.stride + block, there, lanes,
                              found.sums, sizeof(float));
  }
}

// Blocks two by two, and query rows 32 by 32, so that four sums are under way.
SPARSESERVE_AMX void SummarisePacked(const SummaryRows& rows,
                                     const SummaryBlocks& blocks, int tile_keys,
                                     float* products, const Summaries& to) {
  TileRows tiles;
  std::fill_n(tiles.rows, 6, static_cast<uint8_t>(tile_keys));
  ConfigureTiles(tiles);
  const int64_t column_lines = rows.depth / kDepth * kTileLines;
  const int last = blocks.blocks - 1;
  for (int first = 0; first < rows.rows; first += kPairColumns) {
    const TileLine* const packed =
        rows.packed.data() + first / kColumns * column_lines;
    const bool has_second = first + kColumns < rows.rows;
    const TileLine* const queries[2] = {
        packed, has_second ? packed + column_lines : packed};
    for (int b = 0; b <= last; b += 2) {
      const std::byte* const keys[2] = {blocks.keys[b],
                                        blocks.keys[std::min(b + 1, last)]};
      MultiplyBlocks(rows, keys, blocks.key_rows, tile_keys, queries, products);
      for (int i = 0; i < 2 && b + i <= last; ++i) {
        SummariseProducts(rows, blocks, b + i, first,
                          products + i * blocks.key_rows * kPairColumns, to);
      }
    }
  }
  _tile_release();
}

void SummariseBlocks(const SummaryRows& rows, const SummaryBlocks& blocks,
                     std::vector<float>& products, const Summaries& to) {
  if (rows.packed.empty()) {
    Exact().summarise_blocks(rows, blocks, products, to);
    return;
  }
  // Key rows are 64 or a part of them that divides it.
  const int tile_keys = std::min(blocks.key_rows, 16);
  products.resize(2 * blocks.key_rows * kPairColumns);
  SummarisePacked(rows, blocks, tile_keys, products.data(), to);
}

}  // namespace

const SelectionKernels& AmxSelectionKernels() {
  static const SelectionKernels kernels = [] {
    SelectionKernels tiles = Exact();
    tiles.pack_rows = &PackRows;
    tiles.summarise_blocks = &SummariseBlocks;
    return tiles;
  }();
  return kernels;
}

}  // namespace sparseserve::cpu
