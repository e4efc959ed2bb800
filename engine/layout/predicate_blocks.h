#pragma once

// From a predicate to the blocks that a tile of queries visits, by arithmetic
// on intervals of positions: the time is that of writing the blocks down.

#include <vector>

#include "engine/layout/block_layout.h"
#include "engine/layout/key_predicate.h"

namespace sparseserve {

// Replaces `ranges` with the blocks of which some row of the tile sees a key:
// ascending and without overlap; the tile's own is always among them. Blocks
// are of kPageTokens.
void SeenBlocks(const KeyPredicate& predicate, const QueryTile& tile,
                std::vector<BlockRange>& ranges);

// Blocks of which every row of the tile sees every key, before its own:
// ascending, without overlap, either may be empty. A block may be missing
// only where the rows' intervals differ and columns or steps fill the rest.
struct WholeBlocks {
  BlockRange far;
  BlockRange near;
};
WholeBlocks BlocksSeenWhole(const KeyPredicate& predicate,
                            const QueryTile& tile);

}  // namespace sparseserve
