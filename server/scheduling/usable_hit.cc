#include "server/scheduling/usable_hit.h"

#include <algorithm>
#include <numeric>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {

bool MayHit(const HitRule& rule) {
  return rule.traits.is_selection_causal && rule.most_tokens > 0;
}

int UsableHit(const HitRule& rule, int hit_tokens, int total_tokens) {
  SPARSESERVE_CHECK(hit_tokens >= 0 && total_tokens >= 1);
  if (!MayHit(rule)) return 0;
  const int border =
      std::lcm(kPageTokens, std::max(rule.traits.chunk_border_tokens, 1));
  const int most = std::min(total_tokens - 1, rule.most_tokens);
  return std::min(hit_tokens, most) / border * border;
}

int SharedPromptTokens(const HitRule& rule, int total_tokens) {
  SPARSESERVE_CHECK(total_tokens >= 1);
  if (!MayHit(rule)) return 0;
  const int border = std::max(rule.traits.chunk_border_tokens, 1);
  return std::min(total_tokens - 1, rule.most_tokens) / border * border;
}

}  // namespace sparseserve
