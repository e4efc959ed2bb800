#pragma once

#include <cstdint>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// Compiles a rule that follows from shape alone: replaces `ranges` by the KV
// blocks of which some row of `tile` may see a key, ascending and without
// overlap. The tile's own block is always among them, so no row is left without
// a key.
void VisibleBlocks(const PatternSpec& pattern, const QueryTile& tile,
                   int32_t block_tokens, std::vector<BlockRange>& ranges);

// Within its blocks a row at position p sees keys in (p - window, p]; 0: all at
// or before p.
int32_t WindowTokens(const PatternSpec& pattern);

// Both windows at once: the narrower of two, where 0 is none.
int32_t NarrowerWindow(int32_t a, int32_t b);

}  // namespace sparseserve
