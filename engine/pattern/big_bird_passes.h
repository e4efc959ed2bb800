#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// What a pattern of BigBird is applied to.
struct BigBirdTokens {
  int32_t heads = 0;
  // [tokens in blocks], three blocks or more; false for padding.
  std::vector<bool> is_real;
  // [heads, blocks - 2, random_blocks]: what every row of blocks but the first
  // and last draws. All 0 is what transformers does outside of training since
  // 4.29, with checkpoints that were trained otherwise.
  std::vector<int32_t> drawn;
};

// One pass in the order of positions, extra tokens behind the others, whose
// numbers follow theirs; heads that draw alike share their lists.
// A block that a row has several times, drawn twice or drawn and seen anyhow,
// counts as often: log(times) is the bias of its scores. INVALID_ARGUMENT names
// what does not fit.
absl::StatusOr<AttentionPasses> BigBirdPasses(const BigBirdPattern& pattern,
                                              const BigBirdTokens& tokens);

}  // namespace sparseserve
