#pragma once

#include <cstdint>

#include "engine/layout/key_predicate.h"
#include "engine/pattern/pattern_spec.h"
#include "engine/step.h"

namespace sparseserve {

// What a pattern may ask of a tile of queries beside their positions.
struct TilePlace {
  Phase phase = Phase::kPrefill;
  int32_t query_block = 0;  // that holds the tile
  // That holds the prompt's last token; -1 if it is not known.
  int32_t last_prompt_block = -1;
};

// What positions show to the rows of a tile. Of a pattern that chooses by
// scores: what it chooses from.
KeyPredicate StaticKeys(const PatternSpec& pattern, const TilePlace& place);

}  // namespace sparseserve
