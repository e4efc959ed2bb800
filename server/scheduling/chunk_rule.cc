#include "server/scheduling/chunk_rule.h"

#include <algorithm>
#include <numeric>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {

ChunkRule ChunkRuleOf(const PatternTraits& traits, int least_budget) {
  SPARSESERVE_CHECK(least_budget >= kPageTokens);
  ChunkRule rule;
  rule.pattern_border_tokens =
      std::lcm(kPageTokens, std::max(traits.chunk_border_tokens, 1));
  rule.border_tokens = rule.pattern_border_tokens <= least_budget
                           ? rule.pattern_border_tokens
                           : kPageTokens;
  rule.is_whole = !traits.is_selection_causal;
  return rule;
}

int ChunkTokens(const ChunkRule& rule, int computed, int total, int budget) {
  const int left = total - computed;
  if (left <= budget) return left;
  if (rule.is_whole) return 0;
  const int end = computed + budget;
  return std::max(0, end / rule.border_tokens * rule.border_tokens - computed);
}

}  // namespace sparseserve
