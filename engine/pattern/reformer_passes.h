#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// What a pattern of Reformer is applied to.
struct ReformerTokens {
  int32_t heads = 0;
  int32_t rounds = 1;
  // [tokens], a multiple of chunk_tokens if they are more than one chunk; false
  // for padding.
  std::vector<bool> is_real;
  // [heads, rounds, tokens], as of ReformerBuckets(); not read if there is only
  // one chunk.
  std::vector<int32_t> buckets;
};

// A pass for each head in the order of its sorted tokens, all rounds one after
// another: a token has a slot in each. The ring of chunks is closed: the first
// has the last as its neighbour. A chunk that is a row's neighbour on both
// sides counts twice. With one chunk or less there is one round without a sort.
//
// A row sees itself only if it sees nothing else. The published bias of -1e5
// for that leaves such a round no weight beside others, so it has no slot here
// if another round shows the row something; else the row's output is its own
// value and its LSE lacks the bias. INVALID_ARGUMENT names what does not fit.
absl::StatusOr<AttentionPasses> ReformerLshPasses(
    const ReformerLshPattern& pattern, const ReformerTokens& tokens);

}  // namespace sparseserve
