#pragma once

// What rows choose by mean keys of blocks of several pages: MeanKeyRule of
// layout/selection_rule.h says what that is.

#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/pooled_blocks.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/backend/cpu/slice_rows.h"
#include "engine/layout/block_choice.h"

namespace sparseserve::cpu {

// One worker's memory.
struct MeanKeyScratch {
  std::vector<float> queries;   // [query rows, padded depth]
  std::vector<float> products;  // [query rows, blocks], and more
  BlockChoice of_row;
};

// Replaces `keys` with a KV head's keys, by block of the rule, as far as rows
// choose among them: blocks before the last row's own. Reads every key of
// these. Where nothing is chosen among them, since the last row sees all or
// every row its own alone, reads none and leaves `keys` as they are.
void PoolMeanKeys(const SelectionKernels& kernels, const SelectArgs& args,
                  const SliceRows& rows, int32_t kv_head,
                  const MeanKeyRule& rule, PoolingScratch& scratch,
                  PooledBlocks& keys);

// Forces in `choice`, which has an element for each page up to the rows' own,
// the pages of all blocks that one of the rows chooses in one of the KV head's
// query heads. Scores that are not finite choose everything. REQUIRES: the rows
// lie in one page; `keys` as PoolMeanKeys() leaves it for them or rows behind.
void ForceMeanKeyBlocks(const SelectionKernels& kernels, const SelectArgs& args,
                        const SliceRows& rows, int32_t kv_head,
                        const MeanKeyRule& rule, const PooledBlocks& keys,
                        MeanKeyScratch& scratch, BlockChoice& choice);

}  // namespace sparseserve::cpu
