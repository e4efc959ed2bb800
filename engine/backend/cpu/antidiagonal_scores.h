#pragma once

// Antidiagonal scores of one (tile, KV head) pair: AntidiagonalRule of
// layout/selection_rule.h says what they are.

#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/selection_kernels.h"

namespace sparseserve::cpu {

// One worker's memory.
struct AntidiagonalScratch {
  std::vector<float> queries;   // [query rows, depth], each group reversed
  std::vector<float> keys;      // one block's, as float
  std::vector<float> products;  // [query rows, padded groups of a block]
  std::vector<float> maxima;    // [query rows, padded blocks]
  std::vector<float> sums;      // likewise
  std::vector<float> shares;    // [padded blocks]
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
