#pragma once

#include <variant>

#include "engine/pattern/selecting_patterns.h"
#include "engine/pattern/static_patterns.h"

namespace sparseserve {

// Patterns, for prompts or output or both, that a checkpoint need not be
// trained with.
using SkipSoftmaxBase =
    std::variant<DensePattern, SinkWindowPattern, TriShapePattern,
                 XAttentionPattern, VerticalSlashPattern, FlexPrefillPattern,
                 SimilarityGatedPattern, PeakWeightPattern, QuestPattern,
                 PageTopPPattern, MobaPattern>;

// Another pattern, of whose blocks kernels may leave out those whose scores
// turn out negligible (skip-softmax: BLASST, Yuan et al., arXiv 2512.12087,
// where lambda may depend on the context's length): with m the greatest score
// of a row's blocks so far, in ascending order, the row has no use for a block
// all of whose scores are below m + ln(threshold). Which rows decide together,
// and how far back they look, is up to the kernel (BlockLayout::skip_below).
//
// It holds in prompt and output, in every layer, whatever of these the base
// keeps dense. Scores are computed in any case, so what is saved is what comes
// after them. Nothing of it depends on later rows.
struct SkipSoftmaxPattern {
  SkipSoftmaxBase base;
  float threshold = 0.01f;  // 0 to 1; 0 leaves nothing out
  friend bool operator==(const SkipSoftmaxPattern&,
                         const SkipSoftmaxPattern&) = default;
};

}  // namespace sparseserve
