#include "engine/backend/cpu/amx_attention.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/backend/cpu/amx_operands.h"
#include "engine/backend/cpu/amx_softmax.h"
#include "engine/backend/cpu/amx_target.h"
#include "engine/backend/cpu/amx_tiles-inl.h"
#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

constexpr int kTileElements = AmxScratch::kTileElements;
constexpr int kKeys = AmxScratch::kKeys;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

static_assert(kMaxPackedRows % kAmxRows == 0);

void Begin(int rows, int head_dim, float scale, AttentionScratch& scratch) {
  scratch.scale = scale;
  std::fill_n(scratch.maximum, rows, kMinusInfinity);
  std::fill_n(scratch.sum, rows, 0.0f);
  std::fill_n(scratch.output, rows * RowStride(head_dim), 0.0f);
  scratch.amx->blocks = 0;
  PackAmxQueries(rows, head_dim, scratch);
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
  const int depth_tiles = AmxDepthTiles(amx.block.head_dim);
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

// output[32, dims] += weights * values of the blocks kept.
SPARSESERVE_AMX void MultiplyValues(int first_row, AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  const int dim_tiles = AmxDimTiles(amx.block.head_dim);
  constexpr int kBlockTiles = kBlockKeys / 32;
  const int columns = RowStride(amx.block.head_dim);
  const int stride = columns * static_cast<int>(sizeof(float));
  constexpr int kWeightStride = kKeys * sizeof(float);
  const char* weights = reinterpret_cast<const char*>(amx.scores);
  for (int t = 0; t < dim_tiles; t += 2) {
    float* output = scratch.output + first_row * columns + t * 16;
    const uint16_t* all_values = amx.values + t * kTileElements;
    const bool has_second = t + 1 < dim_tiles;
    _tile_loadd(0, output, stride);
    _tile_loadd(2, output + 16 * columns, stride);
    if (has_second) {
      _tile_loadd(1, output + 16, stride);
      _tile_loadd(3, output + 16 * columns + 16, stride);
    }
    for (int i = 0; i < amx.kept_blocks * kBlockTiles; ++i) {
      const int k = amx.kept[i / kBlockTiles] * kBlockTiles + i % kBlockTiles;
      const uint16_t* values = all_values + k * dim_tiles * kTileElements;
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
    }
    _tile_stored(0, output, stride);
    _tile_stored(2, output + 16 * columns, stride);
    if (has_second) {
      _tile_stored(1, output + 16, stride);
      _tile_stored(3, output + 16 * columns + 16, stride);
    }
  }
}

// Attends to the blocks held and lets go of them.
SPARSESERVE_AMX void AddHeldBlocks(AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  if (amx.blocks == 0) return;
  ConfigureTiles(TileRows());
  for (int row = 0; row < amx.block.rows; row += kAmxRows) {
    MultiplyKeys(row, amx);
    WeighAmxRows(row, scratch);
    if (amx.kept_blocks > 0) MultiplyValues(row, scratch);
  }
  _tile_release();
  amx.blocks = 0;
}

void AddBlock(const AttentionBlock& block, AttentionScratch& scratch) {
  AmxScratch& amx = *scratch.amx;
  SPARSESERVE_DCHECK(block.dtype == DType::kBF16);
  const int group = block.place / kAmxBlocks;
  if (amx.blocks > 0 && amx.group != group) AddHeldBlocks(scratch);
  amx.group = group;
  amx.block = block;
  const int slot = amx.blocks++;
  PackAmxKeys(block, slot, amx);
  PackAmxValues(block, slot, amx);
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
  return sum == 0.0f ? kMinusInfinity
                     : scratch.scale * scratch.maximum[row] + std::log(sum);
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
