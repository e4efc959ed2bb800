#include "server/scheduling/chunk_rule.h"

#include <algorithm>
#include <numeric>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {

ChunkRule ChunkRuleOf(const PatternTraits& traits, int least_budget) {
  SPARSESERVE_CHECK(least_budget >= kPageTokens);
  ChunkRule rule;
  const int pages =
      std::lcm(kPageTokens, std::max(traits.chunk_border_tokens, 1));
  rule.border_tokens = pages <= least_budget ? pages : kPageTokens;
  rule.pattern_border_tokens =
      traits.chunk_border_tokens <= 1 ? kPageTokens / 2 : pages;
  rule.is_whole = !traits.is_selection_causal;
  return rule;
}

int ShortestChunk(const ChunkRule& rule, int computed, int total) {
  const int left = total - computed;
  if (rule.is_whole) return left;
  const int border = std::min(rule.border_tokens, rule.pattern_border_tokens);
  return std::min(left, border - computed % border);
}

int ChunkTokens(const ChunkRule& rule, int computed, int total, int budget) {
  const int left = total - computed;
  if (left <= budget) return left;
  if (rule.is_whole) return 0;
  const int end = computed + budget;
  return std::max(0, end / rule.border_tokens * rule.border_tokens - computed);
}

}  // namespace sparseserve
