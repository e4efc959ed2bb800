#pragma once

// Where patterns and kernels meet: which KV blocks each block of queries
// visits. A kernel takes queries, pages and this, and does not know why a
// block is listed.

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "engine/layout/key_predicate.h"

namespace sparseserve {

// Consecutive queries of one slice that lie in one 64-aligned query block of
// absolute positions and so share their lists.
struct QueryTile {
  int32_t slice = 0;           // index into the step's page tables
  int32_t first_row = 0;       // row of the batch's query matrix
  int32_t rows = 0;            // 1 ... block_tokens
  int32_t first_position = 0;  // absolute position of the first row
};

// Consecutive KV blocks [begin, end).
struct BlockRange {
  int32_t begin = 0;
  int32_t end = 0;
};

// Of BlockLayout::skip_below.
inline constexpr float kNoSkip = -std::numeric_limits<float>::infinity();

// KV blocks for every (tile, KV head), in compressed sparse row form. Several
// (tile, head) pairs may share a list. Block b of a sequence covers positions
// [b * block_tokens, (b + 1) * block_tokens) and is page b of its page table.
//
// A list may have a predicate: its rows then see those keys of its partial
// blocks alone for which it says so. Full blocks are never masked.
//
// A layout may have masks instead, which say of every row and key of a partial
// block whether it is seen, before or behind the row: what encoders need
// (MaskedLayoutBuilder). Blocks may then have a bias.
//
// Invariants (Validate()): per list, full and partial blocks are each strictly
// ascending and have no block in common, the list is not empty unless its
// predicate is NoKeys; of a partial block some row sees a key; offsets ascend.
// Without masks no block begins after the tile's last position, a full block
// ends at or before the tile's first position, and the list's predicate shows
// all of its keys to every row.
struct BlockLayout {
  int32_t block_tokens = 64;
  int32_t kv_heads = 0;
  std::vector<QueryTile> tiles;
  // [tiles, kv_heads]: the list that the pair visits.
  std::vector<int32_t> list_of;
  // [tiles, kv_heads], or empty if no pair skips: ln(lambda), at most 0;
  // kNoSkip: the pair skips nothing. Its rows may leave out a block whose
  // scores, as they enter the softmax, all lie more than -ln(lambda) below the
  // greatest score of a block that came before it in the list (skip-softmax:
  // BLASST, Yuan et al., arXiv 2512.12087). A kernel need not, and may decide
  // for several rows at once, if that holds for each; what it never does is
  // leave out another block. Since a row's greatest score is always kept, n
  // blocks that are left out have less than block_tokens * n * lambda of the
  // weight of what is kept. What a kernel decides may depend on which rows a
  // tile has, not on other tiles.
  std::vector<float> skip_below;
  // List l owns full_blocks[full_offsets[l] ... full_offsets[l + 1]): every key
  // of these is visible to every row of the tile.
  std::vector<int64_t> full_offsets = {0};
  std::vector<int32_t> full_blocks;
  // Likewise; here a key is visible if its position <= the row's position and
  // the list's predicate, if it has one, says so.
  std::vector<int64_t> partial_offsets = {0};
  std::vector<int32_t> partial_blocks;
  // Few: lists share them.
  std::vector<KeyPredicate> predicates;
  // [lists], or empty if no list has a predicate: its index in `predicates`;
  // -1: causality alone.
  std::vector<int32_t> predicate_of;
  // Masks say what is seen: neither causality nor predicates do.
  bool has_masks = false;
  // [partial_blocks, block_tokens], or empty without masks: of every row of the
  // list's tiles a word whose bit k is key k of the block.
  std::vector<uint64_t> masks;
  // [full_blocks] and [partial_blocks], or both empty if no block has a bias:
  // which of the bias tiles; -1: none. Only with masks.
  std::vector<int32_t> full_bias_of;
  std::vector<int32_t> partial_bias_of;
  // [any number, block_tokens rows, block_tokens keys]: added to scores after
  // their scaling.
  std::vector<float> bias_tiles;

  int64_t lists() const {
    return static_cast<int64_t>(full_offsets.size()) - 1;
  }
  // Null: causality alone.
  const KeyPredicate* PredicateOf(int64_t list) const {
    if (predicate_of.empty() || predicate_of[list] < 0) return nullptr;
    return &predicates[predicate_of[list]];
  }
  // Null: none. Entries are indexes into full_blocks or partial_blocks.
  const float* FullBias(int64_t entry) const {
    return BiasTile(full_bias_of, entry);
  }
  const float* PartialBias(int64_t entry) const {
    return BiasTile(partial_bias_of, entry);
  }
  // Blocks that a list visits.
  int64_t ListBlocks(int64_t list) const {
    return full_offsets[list + 1] - full_offsets[list] +
           partial_offsets[list + 1] - partial_offsets[list];
  }
  // INTERNAL, naming the first broken invariant. For tests and debug builds.
  absl::Status Validate() const;

 private:
  const float* BiasTile(const std::vector<int32_t>& bias_of,
                        int64_t entry) const {
    if (bias_of.empty() || bias_of[entry] < 0) return nullptr;
    return bias_tiles.data() +
           int64_t{bias_of[entry]} * block_tokens * block_tokens;
  }
};

}  // namespace sparseserve
