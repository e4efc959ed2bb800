#pragma once

#include <cstdint>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// Compiles a rule that follows from shape alone: replaces `ranges` by the KV
// blocks that queries in `query_block` may see, ascending and without overlap.
// The query's own block is always among them, so no row is left without a key.
void VisibleBlocks(const PatternSpec& pattern, int32_t query_block,
                   std::vector<BlockRange>& ranges);

}  // namespace sparseserve
