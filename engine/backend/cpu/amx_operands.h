#pragma once

// The operands of attention's products on AMX tiles (AmxScratch).

#include "engine/backend/cpu/amx_attention.h"

namespace sparseserve::cpu {

// Tiles that head_dim takes where it is summed over, 32 dims each, and where it
// gives columns, 16 each.
constexpr int AmxDepthTiles(int head_dim) { return (head_dim + 31) / 32; }
constexpr int AmxDimTiles(int head_dim) { return RowStride(head_dim) / 16; }

// Rounds the scratch's queries.
void PackAmxQueries(int rows, int head_dim, const AttentionScratch& scratch);
// Bring a block into place `slot`. Keys behind block.loaded_keys are read by no
// row and become 0.
void PackAmxKeys(const AttentionBlock& block, int slot, AmxScratch& amx);
void PackAmxValues(const AttentionBlock& block, int slot, AmxScratch& amx);

}  // namespace sparseserve::cpu
