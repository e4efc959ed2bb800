#include "engine/backend/cpu/antidiagonal_scores.h"

#include <algorithm>

#include "engine/backend/cpu/row_peaks.h"
#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// The pair at hand. Query row (head h of the group, query group t) is row
// h * groups + t.
struct Pair {
  const SelectArgs& args;
  const QueryTile& tile;
  int32_t kv_head;
  int32_t stride;
  // The tile's query groups: [first_group, first_group + groups).
  int32_t first_group = tile.first_position / stride;
  int32_t groups =
      (tile.first_position + tile.rows - 1) / stride - first_group + 1;
  int32_t heads = args.heads / args.kv.kv_heads;
  int32_t query_rows = heads * groups;
  int32_t block_groups = kPageTokens / stride;  // key groups of a block
  int32_t blocks = QueryBlock(tile, kPageTokens) + 1;
  int64_t depth = int64_t{stride} * args.kv.head_dim;
};

// Queries of each group in reverse.
void PackQueries(const Pair& pair, float* packed) {
  const int head_dim = pair.args.kv.head_dim;
  for (int r = 0; r < pair.tile.rows; ++r) {
    const int32_t position = pair.tile.first_position + r;
    const int32_t group = position / pair.stride - pair.first_group;
    const int32_t slot = pair.stride - 1 - position % pair.stride;
    const float* row = pair.args.queries.row(pair.tile.first_row + r);
    for (int h = 0; h < pair.heads; ++h) {
      std::copy_n(row + (pair.kv_head * pair.heads + h) * head_dim, head_dim,
                  packed + (h * pair.groups + group) * pair.depth +
                      int64_t{slot} * head_dim);
    }
  }
}

// The key groups of the tile's own block that each query row sees.
void SeeOwnBlock(const Pair& pair, std::vector<int32_t>& seen) {
  seen.clear();
  for (int32_t q = 0; q < pair.query_rows; ++q) {
    seen.push_back((pair.first_group + q % pair.groups) % pair.block_groups +
                   1);
  }
}

// Of all blocks. A product is the sum of as many scores as a group has rows.
void Summarise(const SelectionKernels& kernels, const Pair& pair,
               AntidiagonalScratch& scratch) {
  const SelectArgs& args = pair.args;
  const QueryTile& tile = pair.tile;
  scratch.summaries.Begin(
      kernels, {.rows = pair.query_rows,
                .depth = pair.depth,
                .blocks = pair.blocks,
                .factor = args.scale / static_cast<float>(pair.stride),
                .softcap = args.softcap,
                .key_dtype = args.kv.dtype});
  PackQueries(pair, scratch.summaries.queries());
  scratch.summaries.Pack();
  const StoredKeys keys(args, tile.slice, pair.kv_head);
  keys.Copy(pair.blocks - 1,
            (tile.first_position + tile.rows - 1) % kPageTokens + 1,
            args.kv.head_dim, scratch.own_keys);
  scratch.keys.clear();
  for (int32_t block = 0; block + 1 < pair.blocks; ++block) {
    scratch.keys.push_back(keys.Of(block));
  }
  scratch.keys.push_back(scratch.own_keys.data());
  SeeOwnBlock(pair, scratch.seen);
  scratch.summaries.Add(0, scratch.keys, pair.block_groups,
                        scratch.seen.data());
}

}  // namespace

void AntidiagonalScores(const SelectionKernels& kernels, const SelectArgs& args,
                        const QueryTile& tile, int32_t kv_head, int32_t stride,
                        AntidiagonalScratch& scratch,
                        std::vector<float>& scores) {
  const Pair pair{args, tile, kv_head, stride};
  Summarise(kernels, pair, scratch);
  scores.assign(scratch.summaries.PaddedBlocks(), 0.0f);
  for (int32_t q = 0; q < pair.query_rows; ++q) {
    scratch.summaries.AddShares(q, scores);
  }
  scores.resize(pair.blocks);
}

void RaiseToAntidiagonalWeights(const SelectionKernels& kernels,
                                const SelectArgs& args, const QueryTile& tile,
                                int32_t kv_head, int32_t stride,
                                AntidiagonalScratch& scratch,
                                std::vector<float>& peaks) {
  const Pair pair{args, tile, kv_head, stride};
  Summarise(kernels, pair, scratch);
  for (int32_t q = 0; q < pair.query_rows; ++q) {
    scratch.shares.assign(scratch.summaries.PaddedBlocks(), 0.0f);
    scratch.summaries.AddShares(q, scratch.shares);
    RaisePeaks(scratch.shares, peaks);
  }
}

}  // namespace sparseserve::cpu
