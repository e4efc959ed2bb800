#pragma once

#include <limits>

#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// What a prompt does not need to compute, for others did.
struct HitRule {
  PatternTraits traits;  // of the prompt's pattern
  // So many at most: of the rows behind them something is measured.
  int most_tokens = std::numeric_limits<int>::max();
};

// Whether there is a prompt of which some need not be computed: none where the
// pattern chooses by the prompt's end, or all rows are measured.
bool MayHit(const HitRule& rule);

// Of the first `hit_tokens` of `total_tokens`, whose keys and values are there
// in whole pages, how many need not be computed: a hit ends where the pattern
// may be cut, so that it chooses as for the whole prompt, and on a border of
// pages, which are read alone; and the last token is always computed, for its
// logits. None unless MayHit(). REQUIRES: 0 <= hit_tokens, total_tokens >= 1.
int UsableHit(const HitRule& rule, int hit_tokens, int total_tokens);

// Likewise of another answer's prompt, the same to its end, of which a begun
// page can be copied: all but the last token where the pattern may be cut
// anywhere.
int SharedPromptTokens(const HitRule& rule, int total_tokens);

}  // namespace sparseserve
