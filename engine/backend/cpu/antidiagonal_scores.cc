#include "engine/backend/cpu/antidiagonal_scores.h"

#include <algorithm>

#include "engine/backend/cpu/row_peaks.h"
#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// A vector may be read or rewritten up to so many elements behind its end.
constexpr int kSlack = 16;

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
  // Of maxima and sums: whole vectors.
  int64_t row_stride = (int64_t{blocks} + kSlack - 1) / kSlack * kSlack;
};

// Queries of each group in reverse, times what makes a product the mean score.
void PackQueries(const Pair& pair, std::vector<float>& packed) {
  const int head_dim = pair.args.kv.head_dim;
  const float factor = pair.args.scale / static_cast<float>(pair.stride);
  packed.assign(pair.query_rows * pair.depth, 0.0f);
  for (int r = 0; r < pair.tile.rows; ++r) {
    const int32_t position = pair.tile.first_position + r;
    const int32_t group = position / pair.stride - pair.first_group;
    const int32_t slot = pair.stride - 1 - position % pair.stride;
    const float* row = pair.args.queries.row(pair.tile.first_row + r);
    for (int h = 0; h < pair.heads; ++h) {
      const float* from = row + (pair.kv_head * pair.heads + h) * head_dim;
      float* to = packed.data() + (h * pair.groups + group) * pair.depth +
                  int64_t{slot} * head_dim;
      for (int i = 0; i < head_dim; ++i) to[i] = from[i] * factor;
    }
  }
}

// Maximum and sum of every query row's weights in the block.
void SummariseBlock(const SelectionKernels& kernels, const Pair& pair,
                    const StoredKeys& keys, int32_t block,
                    AntidiagonalScratch& scratch) {
  const bool is_own = block + 1 == pair.blocks;
  RowProducts rows;
  rows.queries = scratch.queries.data();
  rows.query_rows = pair.query_rows;
  rows.keys = is_own ? reinterpret_cast<const std::byte*>(scratch.keys.data())
                     : keys.Of(block);
  rows.dtype = is_own ? DType::kF32 : pair.args.kv.dtype;
  rows.key_rows = pair.block_groups;
  rows.depth = pair.depth;
  kernels.multiply(rows, pair.block_groups, scratch.products.data());
  if (pair.args.softcap > 0) {
    kernels.soft_cap(pair.args.softcap, pair.query_rows * pair.block_groups,
                     scratch.products.data());
  }
  for (int q = 0; q < pair.query_rows; ++q) {
    const int32_t own_group =
        (pair.first_group + q % pair.groups) % pair.block_groups;
    const int64_t to = q * pair.row_stride + block;
    kernels.summarise(scratch.products.data() + q * pair.block_groups,
                      is_own ? own_group + 1 : pair.block_groups,
                      scratch.maxima[to], scratch.sums[to]);
  }
}

// Of all blocks.
void Summarise(const SelectionKernels& kernels, const Pair& pair,
               AntidiagonalScratch& scratch) {
  const SelectArgs& args = pair.args;
  const QueryTile& tile = pair.tile;
  PackQueries(pair, scratch.queries);
  const StoredKeys keys(args, tile.slice, pair.kv_head);
  keys.Copy(pair.blocks - 1,
            (tile.first_position + tile.rows - 1) % kPageTokens + 1,
            args.kv.head_dim, scratch.keys);
  scratch.products.resize(pair.query_rows * pair.block_groups + kSlack);
  scratch.maxima.resize(pair.query_rows * pair.row_stride);
  scratch.sums.resize(scratch.maxima.size());
  for (int32_t block = 0; block < pair.blocks; ++block) {
    SummariseBlock(kernels, pair, keys, block, scratch);
  }
}

}  // namespace

void AntidiagonalScores(const SelectionKernels& kernels, const SelectArgs& args,
                        const QueryTile& tile, int32_t kv_head, int32_t stride,
                        AntidiagonalScratch& scratch,
                        std::vector<float>& scores) {
  const Pair pair{args, tile, kv_head, stride};
  Summarise(kernels, pair, scratch);
  scores.assign(pair.row_stride, 0.0f);
  for (int q = 0; q < pair.query_rows; ++q) {
    const int64_t first = q * pair.row_stride;
    kernels.add_shares(scratch.maxima.data() + first, pair.blocks,
                       scratch.sums.data() + first, scores.data());
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
  for (int q = 0; q < pair.query_rows; ++q) {
    const int64_t first = q * pair.row_stride;
    scratch.shares.assign(pair.row_stride, 0.0f);
    kernels.add_shares(scratch.maxima.data() + first, pair.blocks,
                       scratch.sums.data() + first, scratch.shares.data());
    RaisePeaks(scratch.shares, peaks);
  }
}

}  // namespace sparseserve::cpu
