#pragma once

// What blocks of keys weigh among candidates: CandidateMassRule of
// layout/selection_rule.h says what that is.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/backend/cpu/slice_rows.h"

namespace sparseserve::cpu {

// One worker's memory; it grows with the number of candidates alone.
struct CandidateScratch {
  std::vector<int32_t> blocks;  // the candidates, ascending
  std::vector<float> queries;   // [query rows, padded depth]
  std::vector<std::byte> keys;  // one block's
  std::vector<float> products;  // [query rows, kPageTokens]
  std::vector<float> maxima;    // [query rows, padded candidates]
  std::vector<float> sums;      // likewise
  std::vector<float> shares;    // [padded candidates]
};

// Replaces `scores` with one for each of the first `blocks` blocks: 0, but for
// those of scratch.blocks the sum, over rows and the KV head's query heads, of
// their keys' weights in the softmax over all of these that the row sees. Reads
// the candidates' keys alone. REQUIRES: scratch.blocks ascends from 0 to the
// rows' own block, which is the last of `blocks`.
void CandidateWeights(const SelectionKernels& kernels, const SelectArgs& args,
                      const SliceRows& rows, int32_t kv_head, int32_t blocks,
                      CandidateScratch& scratch, std::vector<float>& scores);

}  // namespace sparseserve::cpu
