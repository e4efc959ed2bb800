#pragma once

#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// Where one sequence's prompt may be cut.
struct ChunkRule {
  // Chunks end on multiples of it, or with the prompt. A multiple of a page.
  int border_tokens = 0;
  // What the pattern asks for; half a page where it asks for nothing. Cuts
  // elsewhere are safe, but let it choose otherwise, so an answer that had one
  // does not reproduce.
  int pattern_border_tokens = 0;
  bool is_whole = false;  // never cut
};

// The rule for a pattern where every prompt is sure to get `least_budget` rows
// of a step, at least a page, sooner or later. Where a stretch between two of
// the pattern's borders does not fit them, chunks end on page borders: a prompt
// that waited for more might wait for ever.
ChunkRule ChunkRuleOf(const PatternTraits& traits, int least_budget);

// Tokens of the shortest chunk that the pattern allows, for a step in which
// those up to the border take too long: behind much context half a page takes
// half of the time.
int ShortestChunk(const ChunkRule& rule, int computed, int total);

// Tokens of the next chunk of a prompt of which `computed` of `total` tokens
// are done, if at most `budget` may run; 0 if that is too little.
int ChunkTokens(const ChunkRule& rule, int computed, int total, int budget);

}  // namespace sparseserve
