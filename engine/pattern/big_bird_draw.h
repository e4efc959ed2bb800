#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// Whose blocks are drawn.
struct BigBirdDraw {
  uint32_t seed = 0;  // transformers takes the layer's number
  int32_t heads = 0;
  int32_t tokens = 0;       // of the padded sequence
  int32_t most_tokens = 0;  // that the model has positions for
};

// The random blocks that checkpoints were trained with: what transformers draws
// while it trains, to the block. BigBirdTokens::drawn. At the paper's lengths
// of 1,024, 3,072 and 4,096 tokens they are drawn, row by row, from the first
// 1,024 tokens, else from the first 2 r + 5 blocks, or from all if r + 5 are
// all. INVALID_ARGUMENT where transformers fails too: if some row has too few
// blocks to draw from.
absl::StatusOr<std::vector<int32_t>> DrawBigBirdBlocks(
    const BigBirdPattern& pattern, const BigBirdDraw& draw);

}  // namespace sparseserve
