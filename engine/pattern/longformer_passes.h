#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// What a pattern of Longformer is applied to.
struct LongformerTokens {
  int32_t heads = 0;
  std::vector<bool> is_real;    // [tokens]; false for padding
  std::vector<int32_t> global;  // ascending; none is padding
};

// A pass for each dilation, and one for global tokens' queries, whose
// projection is 1. Keys of global tokens stand behind the others in every
// pass: so all tiles see the same few blocks of them, and no list has a key
// twice. Tokens of a dilated pass are ordered by their remainder, so that its
// windows are runs of slots. INVALID_ARGUMENT names what does not fit.
absl::StatusOr<AttentionPasses> LongformerPasses(
    const LongformerPattern& pattern, const LongformerTokens& tokens);

}  // namespace sparseserve
