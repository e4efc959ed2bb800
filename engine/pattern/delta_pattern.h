#pragma once

#include <cstdint>
#include <variant>

#include "engine/pattern/selecting_patterns.h"
#include "engine/pattern/static_patterns.h"

namespace sparseserve {

// Patterns for prompts that a checkpoint need not be trained with.
using DeltaBase = std::variant<TriShapePattern, SinkWindowPattern,
                               XAttentionPattern, VerticalSlashPattern,
                               FlexPrefillPattern, SimilarityGatedPattern>;

// Another pattern, corrected by rows that see every key (Willette et al., arXiv
// 2505.11254). With o a prompt row's output over the keys that the base shows
// and d that over every key that the checkpoint lets it see, row i becomes
//
//   o[i] + d[a] - o[a],  a = i / gamma * gamma,
//
// head by head. Where the base leaves nothing out, nothing changes. So row a
// becomes d[a] up to rounding, and the correction adds no dependence on later
// rows. A chunk that begins behind a takes its own first row for a until the
// next multiple of gamma.
struct DeltaPattern {
  DeltaBase base;
  int32_t gamma = 64;  // 8, 16, 32 or 64: it divides blocks
  friend bool operator==(const DeltaPattern&, const DeltaPattern&) = default;
};

}  // namespace sparseserve
