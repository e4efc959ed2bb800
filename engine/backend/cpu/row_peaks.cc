#include "engine/backend/cpu/row_peaks.h"

#include <algorithm>

#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// A vector may be read or rewritten up to so many elements behind its end.
constexpr int kSlack = 16;

// The rows that are looked at, of every query head, times attention's scale.
void PackSample(const SelectArgs& args, const QueryTile& tile, int32_t kv_head,
                int32_t rows, RowPeakScratch& scratch) {
  const int32_t head_dim = args.kv.head_dim;
  const int32_t heads = args.heads / args.kv.kv_heads;
  const int64_t depth = PaddedDepth(head_dim);
  scratch.queries.assign(heads * rows * depth, 0.0f);
  scratch.positions.clear();
  float* to = scratch.queries.data();
  for (int32_t h = 0; h < heads; ++h) {
    for (int32_t i = 0; i < rows; ++i, to += depth) {
      const int32_t row = (i + 1) * tile.rows / rows - 1;
      scratch.positions.push_back(tile.first_position + row);
      const float* const from = args.queries.row(tile.first_row + row) +
                                (int64_t{kv_head} * heads + h) * head_dim;
      for (int32_t d = 0; d < head_dim; ++d) to[d] = from[d] * args.scale;
    }
  }
}

}  // namespace

void RaiseToRowWeights(const SelectionKernels& kernels, const SelectArgs& args,
                       const QueryTile& tile, int32_t kv_head, int32_t rows,
                       RowPeakScratch& scratch, std::vector<float>& peaks) {
  PackSample(args, tile, kv_head, std::min(rows, tile.rows), scratch);
  const auto query_rows = static_cast<int32_t>(scratch.positions.size());
  const auto blocks = static_cast<int32_t>(peaks.size());
  const int64_t stride = int64_t{blocks} + kSlack;
  scratch.products.resize(query_rows * kPageTokens + kSlack);
  scratch.maxima.assign(query_rows * stride, 0.0f);
  scratch.sums.assign(query_rows * stride, 0.0f);
  const StoredKeys keys(args, tile.slice, kv_head);
  float* const products = scratch.products.data();
  for (int32_t b = 0; b < blocks; ++b) {
    const int32_t first_key = b * kPageTokens;
    const int32_t stored =
        std::min(kPageTokens, tile.first_position + tile.rows - first_key);
    const StoredKeys::Rows block = keys.Padded(b, stored, scratch.keys);
    RowProducts operands;
    operands.queries = scratch.queries.data();
    operands.query_rows = query_rows;
    operands.keys = block.data;
    operands.dtype = block.dtype;
    operands.key_rows = kPageTokens;
    operands.depth = PaddedDepth(args.kv.head_dim);
    kernels.multiply(operands, kPageTokens, products);
    if (args.softcap > 0) {
      kernels.soft_cap(args.softcap, query_rows * kPageTokens, products);
    }
    for (int32_t q = 0; q < query_rows; ++q) {
      kernels.summarise(
          products + q * kPageTokens,
          std::min(kPageTokens, scratch.positions[q] + 1 - first_key),
          scratch.maxima[q * stride + b], scratch.sums[q * stride + b]);
    }
  }
  for (int32_t q = 0; q < query_rows; ++q) {
    scratch.shares.assign(stride, 0.0f);
    kernels.add_shares(scratch.maxima.data() + q * stride, blocks,
                       scratch.sums.data() + q * stride, scratch.shares.data());
    RaisePeaks(scratch.shares, peaks);
  }
}

}  // namespace sparseserve::cpu
