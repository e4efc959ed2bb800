#pragma once

// Means of blocks of queries and keys, how alike a block's vectors are, and the
// scores that means give: SimilarityRule and FlexPrefillRule of
// layout/selection_rule.h say what they are.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/backend/cpu/slice_rows.h"

namespace sparseserve::cpu {

// Blocks of rows: one of keys a block, or one of queries a head.
struct PooledBlocks {
  std::vector<float> means;         // [blocks, padded depth]
  std::vector<float> similarities;  // [blocks]: mean cosine of all pairs
};

// One worker's memory.
struct PoolingScratch {
  std::vector<std::byte> keys;  // one block's
  std::vector<float> rows;      // a tile's queries
  std::vector<float> unit_sum;  // [padded depth]
  std::vector<float> products;  // [heads, padded blocks]
  std::vector<float> unused;    // [padded blocks]
  PooledBlocks queries;         // by query head of the KV head
};

// Replaces `pooled` with a KV head's keys up to the last of `rows`, by block.
void PoolKeys(const SelectionKernels& kernels, const SelectArgs& args,
              const SliceRows& rows, int32_t kv_head, PoolingScratch& scratch,
              PooledBlocks& pooled);

// Joins every `count` blocks to one: its mean is that of theirs, which is that
// of its rows if all have as many. Leaves no similarities. REQUIRES: `count`
// divides the number of blocks.
void JoinBlocks(int32_t count, int64_t depth, PooledBlocks& pooled);

// Replaces scratch.queries with the KV head's queries at `rows`, by head.
void PoolQueries(const SelectionKernels& kernels, const SelectArgs& args,
                 const SliceRows& rows, int32_t kv_head,
                 PoolingScratch& scratch);

// Replaces `scores` with one for each of the first `blocks` key blocks: the
// softmax over them of mean query . mean key, scaled and capped as attention's
// scores are, summed over the heads of scratch.queries. Blocks whose keys are
// less alike than `least_similarity` are left out of it and score 0.
void PooledScores(const SelectionKernels& kernels, const SelectArgs& args,
                  const PooledBlocks& keys, int32_t blocks,
                  float least_similarity, PoolingScratch& scratch,
                  std::vector<float>& scores);

}  // namespace sparseserve::cpu
