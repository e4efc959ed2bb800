#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "engine/layout/block_layout.h"

namespace sparseserve {

// Consecutive KV blocks [begin, end).
struct BlockRange {
  int32_t begin = 0;
  int32_t end = 0;
};

// Builds a BlockLayout tile by tile from ranges of visible blocks; never
// evaluates a rule per (query, key) pair. Keeps its memory between steps. One
// thread.
class LayoutBuilder {
 public:
  explicit LayoutBuilder(int32_t kv_heads);

  // Forgets every tile and list.
  void Clear();

  // Begins a tile. Every KV head of it must be given a list before layout()
  // is used. REQUIRES: the tile lies in one block of positions.
  void AddTile(const QueryTile& tile);

  // Adds a list for the latest tile and returns its id. Blocks after the
  // tile's own and before every row's window are left out; the tile's own and
  // those at the window's edge become partial, the others full.
  // REQUIRES: `visible` ascends, without overlap, and leaves at least one
  // block; window_tokens >= 0, where 0 is no window.
  int32_t AddList(absl::Span<const BlockRange> visible,
                  int32_t window_tokens = 0);

  // Adds a copy of another layout's list and returns its id. REQUIRES: the list
  // is one of an equal tile.
  int32_t AddCopy(const BlockLayout& from, int32_t list);

  // The latest tile's KV head visits `list`.
  void Assign(int32_t kv_head, int32_t list);

  // Blocks of a list.
  int64_t ListBlocks(int32_t list) const;

  const BlockLayout& layout() const { return layout_; }

 private:
  BlockLayout layout_;
};

// Index of the block that holds the tile's rows: the last that causality
// allows.
int32_t QueryBlock(const QueryTile& tile, int32_t block_tokens);

}  // namespace sparseserve
