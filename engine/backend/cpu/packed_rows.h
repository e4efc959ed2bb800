#pragma once

#include <cstdint>

#include "engine/backend/cpu/attention_kernels.h"
#include "engine/layout/block_layout.h"

namespace sparseserve::cpu {

// Rows of one pass over a list: query rows of a tile, each with every head of
// a KV head's group.
struct PackedRows {
  QueryTile tile;
  int kv_head = 0;
  int group = 1;
  int first = 0;  // among the tile's rows * group
  int count = 0;

  int tile_row(int r) const { return (first + r) / group; }
  int query_row(int r) const { return tile.first_row + tile_row(r); }
  int position(int r) const { return tile.first_position + tile_row(r); }
  int head(int r) const { return kv_head * group + (first + r) % group; }
};

// Which keys of a block the rows of the scratch see.
struct VisibleKeys {
  int end = kBlockKeys;   // of the last that any row sees
  bool has_bits = false;  // as in AttentionBlock
};

// Writes what every row sees of a full block, or of partial block `block`, into
// rows 0 ... rows.count - 1 of the scratch.
VisibleKeys SetAllVisible(const PackedRows& rows, AttentionScratch& scratch);
VisibleKeys SetVisible(const PackedRows& rows, int32_t block,
                       const KeyPredicate& predicate,
                       AttentionScratch& scratch);
// Likewise by a mask: a word for each of the tile's rows.
VisibleKeys SetMasked(const PackedRows& rows, const uint64_t* mask,
                      AttentionScratch& scratch);
// Gives every row its part of a block's bias tile.
void SetBias(const PackedRows& rows, const float* bias_tile,
             AttentionScratch& scratch);

}  // namespace sparseserve::cpu
