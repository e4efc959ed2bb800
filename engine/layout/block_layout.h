#pragma once

// Where patterns and kernels meet: which KV blocks each block of queries
// visits. A kernel takes queries, pages and this, and does not know why a
// block is listed.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace sparseserve {

// Consecutive queries of one slice that lie in one 64-aligned query block of
// absolute positions and so share their lists.
struct QueryTile {
  int32_t slice = 0;           // index into the step's page tables
  int32_t first_row = 0;       // row of the batch's query matrix
  int32_t rows = 0;            // 1 ... block_tokens
  int32_t first_position = 0;  // absolute position of the first row
};

// KV blocks for every (tile, KV head), in compressed sparse row form. Several
// (tile, head) pairs may share a list. Block b of a sequence covers positions
// [b * block_tokens, (b + 1) * block_tokens) and is page b of its page table.
//
// A list may have a window of w tokens: a row at position p then sees keys at
// positions in (p - w, p] alone.
//
// Invariants (Validate()): per list, full and partial blocks are each strictly
// ascending and have no block in common, the list is not empty; no block begins
// after the tile's last position; a full block ends at or before the tile's
// first position and, with a window, begins inside that of the tile's last row;
// a partial block does not end before the window of the tile's first row;
// offsets ascend.
struct BlockLayout {
  int32_t block_tokens = 64;
  int32_t kv_heads = 0;
  std::vector<QueryTile> tiles;
  // [tiles, kv_heads]: the list that the pair visits.
  std::vector<int32_t> list_of;
  // List l owns full_blocks[full_offsets[l] ... full_offsets[l + 1]): every key
  // of these is visible to every row of the tile.
  std::vector<int64_t> full_offsets = {0};
  std::vector<int32_t> full_blocks;
  // Likewise; here a key is visible if its position <= the row's position and
  // inside the list's window.
  std::vector<int64_t> partial_offsets = {0};
  std::vector<int32_t> partial_blocks;
  // [lists], or empty if no list has a window; 0: this one has none.
  std::vector<int32_t> window_tokens;

  int64_t lists() const {
    return static_cast<int64_t>(full_offsets.size()) - 1;
  }
  int32_t WindowOf(int64_t list) const {
    return window_tokens.empty() ? 0 : window_tokens[list];
  }
  // Blocks that a list visits.
  int64_t ListBlocks(int64_t list) const {
    return full_offsets[list + 1] - full_offsets[list] +
           partial_offsets[list + 1] - partial_offsets[list];
  }
  // INTERNAL, naming the first broken invariant. For tests and debug builds.
  absl::Status Validate() const;
};

}  // namespace sparseserve
