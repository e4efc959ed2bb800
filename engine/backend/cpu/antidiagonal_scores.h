#pragma once

// Antidiagonal scores of one (tile, KV head) pair: AntidiagonalRule of
// layout/selection_rule.h says what they are.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/row_summaries.h"
#include "engine/backend/cpu/selection_kernels.h"

namespace sparseserve::cpu {

// One worker's memory.
struct AntidiagonalScratch {
  RowSummaries summaries;              // rows are query groups, each reversed
  std::vector<std::byte> own_keys;     // of the tile's own block
  std::vector<const std::byte*> keys;  // of each block
  std::vector<int32_t> seen;           // [query rows]
  std::vector<float> shares;           // [padded blocks]
};

// Replaces `scores` with one for each block up to the tile's own. A query row
// is a group of `stride` positions of one head.
void AntidiagonalScores(const SelectionKernels& kernels, const SelectArgs& args,
                        const QueryTile& tile, int32_t kv_head, int32_t stride,
                        AntidiagonalScratch& scratch,
                        std::vector<float>& scores);

// Likewise, but raises each block's `peaks` to the largest weight that a query
// row gives it; one that is no number stays. REQUIRES: peaks has an element for
// each block up to the tile's own.
void RaiseToAntidiagonalWeights(const SelectionKernels& kernels,
                                const SelectArgs& args, const QueryTile& tile,
                                int32_t kv_head, int32_t stride,
                                AntidiagonalScratch& scratch,
                                std::vector<float>& peaks);

}  // namespace sparseserve::cpu
