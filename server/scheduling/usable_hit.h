#pragma once

#include <limits>

#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// What a prompt does not need to compute, for others did.
struct HitRule {
  PatternTraits traits;  // of the prompt's pattern
  // From here on it sees other keys than if the prompt went on
  // (PatternDecision::prompt_end_blocks), as others' may.
  int first_end_token = std::numeric_limits<int>::max();
  // Something is measured of rows all over the prompt: none may be missing.
  bool needs_every_row = false;
};

// Of the first `hit_tokens` of `total_tokens`, whose keys and values are there
// in whole pages, how many need not be computed: a hit ends where the pattern
// may be cut, so that it chooses as for the whole prompt, and on a border of
// pages, which are read alone; at most where the prompt's end begins; and the
// last token is always computed, for its logits. None if the pattern chooses by
// the prompt's end. REQUIRES:
// 0 <= hit_tokens, total_tokens >= 1.
int UsableHit(const HitRule& rule, int hit_tokens, int total_tokens);

// Likewise of another answer's prompt, the same to its end, of which a begun
// page can be copied: all but the last token where the pattern may be cut
// anywhere.
int SharedPromptTokens(const HitRule& rule, int total_tokens);

}  // namespace sparseserve
