#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// What a pattern of H-Transformer-1D is applied to.
struct HTransformerTokens {
  int32_t heads = 0;
  // [tokens]; false for padding. Behind them padding is thought up to a power
  // of two of blocks.
  std::vector<bool> is_real;
};

// A pass for each level. The lowest is of tokens; in each above, twice as many
// tokens as in the one below are taken together, whose queries, keys and values
// are the means of those that are real. All levels share one softmax, in which
// a mean counts for each of its tokens: log(their number) is the bias of its
// scores. INVALID_ARGUMENT names what does not fit.
absl::StatusOr<AttentionPasses> HTransformerPasses(
    const HTransformerPattern& pattern, const HTransformerTokens& tokens);

}  // namespace sparseserve
