#include "engine/backend/cpu/antidiagonal_scores.h"

#include <algorithm>
#include <cstring>

#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

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

const std::byte* KeysOf(const Pair& pair, int32_t block) {
  const KvLayerView& kv = pair.args.kv;
  const absl::Span<const PageId> pages = pair.args.pages[pair.tile.slice];
  SPARSESERVE_CHECK(block < static_cast<int64_t>(pages.size()));
  const PageId page = pages[block];
  SPARSESERVE_CHECK(page >= 0 && page < kv.pages);
  return kv.keys + (int64_t{page} * kv.kv_heads + pair.kv_head) * kPageTokens *
                       kv.head_dim * BlockBytes(kv.dtype);
}

// The tile's own block as float, with 0 where no key is stored yet: what lies
// there is anything.
void CopyOwnKeys(const Pair& pair, std::vector<float>& keys) {
  const KvLayerView& kv = pair.args.kv;
  const int32_t stored =
      (pair.tile.first_position + pair.tile.rows - 1) % kPageTokens + 1;
  const int64_t elements = int64_t{stored} * kv.head_dim;
  const std::byte* from = KeysOf(pair, pair.blocks - 1);
  keys.assign(int64_t{kPageTokens} * kv.head_dim, 0.0f);
  if (kv.dtype == DType::kBF16) {
    const auto* stored_keys = reinterpret_cast<const uint16_t*>(from);
    std::transform(stored_keys, stored_keys + elements, keys.begin(),
                   BFloat16ToFloat);
  } else {
    std::memcpy(keys.data(), from, elements * sizeof(float));
  }
}

// Maximum and sum of every query row's weights in the block.
void SummariseBlock(const SelectionKernels& kernels, const Pair& pair,
                    int32_t block, AntidiagonalScratch& scratch) {
  const bool is_own = block + 1 == pair.blocks;
  RowProducts rows;
  rows.queries = scratch.queries.data();
  rows.query_rows = pair.query_rows;
  rows.keys = is_own ? reinterpret_cast<const std::byte*>(scratch.keys.data())
                     : KeysOf(pair, block);
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

}  // namespace

void AntidiagonalScores(const SelectionKernels& kernels, const SelectArgs& args,
                        const QueryTile& tile, int32_t kv_head, int32_t stride,
                        AntidiagonalScratch& scratch,
                        std::vector<float>& scores) {
  const Pair pair{args, tile, kv_head, stride};
  PackQueries(pair, scratch.queries);
  CopyOwnKeys(pair, scratch.keys);
  scratch.products.resize(pair.query_rows * pair.block_groups + kSlack);
  scratch.maxima.resize(pair.query_rows * pair.row_stride);
  scratch.sums.resize(scratch.maxima.size());
  for (int32_t block = 0; block < pair.blocks; ++block) {
    SummariseBlock(kernels, pair, block, scratch);
  }
  scores.assign(pair.row_stride, 0.0f);
  for (int q = 0; q < pair.query_rows; ++q) {
    const int64_t first = q * pair.row_stride;
    kernels.add_shares(scratch.maxima.data() + first, pair.blocks,
                       scratch.sums.data() + first, scores.data());
  }
  scores.resize(pair.blocks);
}

}  // namespace sparseserve::cpu
