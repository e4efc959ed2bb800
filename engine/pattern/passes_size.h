#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "engine/step.h"

namespace sparseserve {

// What a sequence's passes come to at most. Each of the numbers that a caller
// gives has a range, but it is their products that memory follows.
struct PassesSize {
  // Of queries, once for every head that goes through their pass: what
  // PassAttention brings into order.
  int64_t slots = 0;
  int64_t blocks = 0;      // that lists name, 520 bytes each with their masks
  int64_t bias_tiles = 0;  // of 16 KiB
};

// What published encoders come to, and more: ETC of 16 heads with 8,192 long
// and 512 global tokens has 44,032 blocks of biases. About 550 MB of lists and
// masks, and 1 GB of biases.
inline constexpr PassesSize kMaxPassesSize = {.slots = int64_t{1} << 24,
                                              .blocks = int64_t{1} << 20,
                                              .bias_tiles = int64_t{1} << 16};

// INVALID_ARGUMENT "PATTERN: NUMBER of WHAT; allowed: NUMBER" for passes that
// may be larger than that. To be asked before anything of their size is made.
absl::Status CheckPassesSize(std::string_view pattern, const PassesSize& size);

// Blocks in which consecutive slots lie, however they begin.
constexpr int64_t MostBlocksOf(int64_t slots) {
  return slots / kPageTokens + 2;
}

// Tiles, or blocks, that so many slots fill from a border on.
constexpr int64_t BlocksOfAligned(int64_t slots) {
  return (slots + kPageTokens - 1) / kPageTokens;
}

}  // namespace sparseserve
