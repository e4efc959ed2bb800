#include "server/scheduling/usable_hit.h"

#include <algorithm>
#include <numeric>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

bool MayReadAny(const HitRule& rule) {
  return rule.traits.is_selection_causal && !rule.needs_every_row;
}

}  // namespace

int UsableHit(const HitRule& rule, int hit_tokens, int total_tokens) {
  SPARSESERVE_CHECK(hit_tokens >= 0 && total_tokens >= 1);
  if (!MayReadAny(rule)) return 0;
  const int border =
      std::lcm(kPageTokens, std::max(rule.traits.chunk_border_tokens, 1));
  const int most = std::min(total_tokens - 1, rule.first_end_token);
  return std::min(hit_tokens, most) / border * border;
}

int SharedPromptTokens(const HitRule& rule, int total_tokens) {
  SPARSESERVE_CHECK(total_tokens >= 1);
  if (!MayReadAny(rule)) return 0;
  const int border = std::max(rule.traits.chunk_border_tokens, 1);
  return (total_tokens - 1) / border * border;
}

}  // namespace sparseserve
