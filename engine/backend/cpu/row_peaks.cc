#include "engine/backend/cpu/row_peaks.h"

#include <algorithm>

#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// The rows that are looked at, of every query head: what each sees of the
// tile's own block, and its query.
void PackSample(const SelectArgs& args, const QueryTile& tile, int32_t kv_head,
                int32_t rows, RowPeakScratch& scratch) {
  const int32_t head_dim = args.kv.head_dim;
  const int32_t heads = args.heads / args.kv.kv_heads;
  scratch.seen.clear();
  float* to = scratch.summaries.queries();
  for (int32_t h = 0; h < heads; ++h) {
    for (int32_t i = 0; i < rows; ++i, to += PaddedDepth(head_dim)) {
      const int32_t row = (i + 1) * tile.rows / rows - 1;
      scratch.seen.push_back((tile.first_position + row) % kPageTokens + 1);
      std::copy_n(args.queries.row(tile.first_row + row) +
                      (int64_t{kv_head} * heads + h) * head_dim,
                  head_dim, to);
    }
  }
}

// Of all blocks.
void Summarise(const SelectArgs& args, const QueryTile& tile, int32_t kv_head,
               int32_t blocks, RowPeakScratch& scratch) {
  const StoredKeys keys(args, tile.slice, kv_head);
  // Blocks that are copied share memory.
  const bool one_by_one = !keys.ArePadded();
  scratch.keys.clear();
  int32_t first = 0;
  for (int32_t b = 0; b < blocks; ++b) {
    const int32_t stored = std::min(
        kPageTokens, tile.first_position + tile.rows - b * kPageTokens);
    scratch.keys.push_back(keys.Padded(b, stored, scratch.copied));
    if (!one_by_one && b + 1 < blocks) continue;
    scratch.summaries.Add(first, scratch.keys, kPageTokens,
                          scratch.seen.data());
    scratch.keys.clear();
    first = b + 1;
  }
}

}  // namespace

void RaiseToRowWeights(const SelectionKernels& kernels, const SelectArgs& args,
                       const QueryTile& tile, int32_t kv_head, int32_t rows,
                       RowPeakScratch& scratch, std::vector<float>& peaks) {
  const int32_t sampled = std::min(rows, tile.rows);
  const int32_t query_rows = args.heads / args.kv.kv_heads * sampled;
  const auto blocks = static_cast<int32_t>(peaks.size());
  scratch.summaries.Begin(kernels, {.rows = query_rows,
                                    .depth = PaddedDepth(args.kv.head_dim),
                                    .blocks = blocks,
                                    .factor = args.scale,
                                    .softcap = args.softcap,
                                    .key_dtype = args.kv.dtype});
  PackSample(args, tile, kv_head, sampled, scratch);
  scratch.summaries.Pack();
  Summarise(args, tile, kv_head, blocks, scratch);
  for (int32_t q = 0; q < query_rows; ++q) {
    scratch.shares.assign(scratch.summaries.PaddedBlocks(), 0.0f);
    scratch.summaries.AddShares(q, scratch.shares);
    RaisePeaks(scratch.shares, peaks);
  }
}

}  // namespace sparseserve::cpu
