#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/layout/block_layout.h"

namespace sparseserve {

// Builds a BlockLayout tile by tile from predicates and ranges of blocks; never
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

  // Adds the list of all that the predicate shows to the latest tile, and
  // returns its id. Blocks that every row sees whole become full, the others
  // partial; the tile's own is always partial.
  int32_t AddListOf(const KeyPredicate& predicate);

  // Likewise, but only those of `visible`.
  // REQUIRES: `visible` ascends, without overlap, and leaves at least one
  // block.
  int32_t AddList(absl::Span<const BlockRange> visible,
                  const KeyPredicate& predicate = {});

  // Becomes a copy of a builder's layout, to which lists are then added.
  void CopyFrom(const BlockLayout& layout);
  // Forgets what was added and assigned since the copy was made of `layout`.
  void ReturnTo(const BlockLayout& layout);
  // A KV head of any tile visits a list of its own, of `visible`. REQUIRES: as
  // AddList().
  void AssignOwn(int32_t tile, int32_t kv_head,
                 absl::Span<const BlockRange> visible);

  // The latest tile's KV head visits `list`.
  void Assign(int32_t kv_head, int32_t list);
  // ... and may leave out what BlockLayout::skip_below says.
  // REQUIRES: skip_below <= 0.
  void AllowSkip(int32_t kv_head, float skip_below);

  // Blocks of a list.
  int64_t ListBlocks(int32_t list) const;

  const BlockLayout& layout() const { return layout_; }

 private:
  int32_t AddList(const QueryTile& tile, absl::Span<const BlockRange> visible,
                  const KeyPredicate& predicate);
  // Adds the tile's list of `seen` blocks.
  int32_t Emit(const QueryTile& tile, absl::Span<const BlockRange> seen,
               const KeyPredicate& predicate);
  // -1 for causality alone.
  int32_t PredicateId(const KeyPredicate& predicate);

  BlockLayout layout_;
  std::vector<BlockRange> seen_;    // scratch
  std::vector<BlockRange> common_;  // scratch
};

// Index of the block that holds the tile's rows: the last that causality
// allows.
int32_t QueryBlock(const QueryTile& tile, int32_t block_tokens);

}  // namespace sparseserve
