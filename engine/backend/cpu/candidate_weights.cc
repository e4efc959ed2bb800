#include "engine/backend/cpu/candidate_weights.h"

#include <algorithm>

#include "engine/backend/cpu/packed_queries.h"
#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// A vector may be read or rewritten up to so many elements behind its end.
constexpr int kSlack = 16;

}  // namespace

void CandidateWeights(const SelectionKernels& kernels, const SelectArgs& args,
                      const SliceRows& rows, int32_t kv_head, int32_t blocks,
                      CandidateScratch& scratch, std::vector<float>& scores) {
  const StoredKeys keys(args, rows.slice, kv_head);
  const int32_t query_rows = args.heads / args.kv.kv_heads * rows.rows;
  const int64_t count = static_cast<int64_t>(scratch.blocks.size());
  const int64_t stride = count + kSlack;
  PackQueries(args, rows, kv_head, args.scale, scratch.queries);
  scratch.products.resize(query_rows * kPageTokens + kSlack);
  scratch.maxima.assign(query_rows * stride, 0.0f);
  scratch.sums.assign(query_rows * stride, 0.0f);
  scratch.shares.assign(stride, 0.0f);

  RowProducts products;
  products.queries = scratch.queries.data();
  products.query_rows = query_rows;
  products.key_rows = kPageTokens;
  products.depth = PaddedDepth(args.kv.head_dim);
  products.dtype = args.kv.dtype;
  for (int64_t c = 0; c < count; ++c) {
    const int32_t first_key = scratch.blocks[c] * kPageTokens;
    const int32_t stored =
        std::min(kPageTokens, rows.end_position() - first_key);
    products.keys = keys.Padded(scratch.blocks[c], stored, scratch.keys);
    float* const of_block = scratch.products.data();
    kernels.multiply(products, kPageTokens, of_block);
    if (args.softcap > 0) {
      kernels.soft_cap(args.softcap, query_rows * kPageTokens, of_block);
    }
    for (int32_t q = 0; q < query_rows; ++q) {
      const int32_t position = rows.first_position + q % rows.rows;
      kernels.summarise(of_block + q * kPageTokens,
                        std::min(kPageTokens, position + 1 - first_key),
                        scratch.maxima[q * stride + c],
                        scratch.sums[q * stride + c]);
    }
  }
  for (int32_t q = 0; q < query_rows; ++q) {
    kernels.add_shares(scratch.maxima.data() + q * stride, count,
                       scratch.sums.data() + q * stride, scratch.shares.data());
  }
  scores.assign(blocks, 0.0f);
  for (int64_t c = 0; c < count; ++c) {
    scores[scratch.blocks[c]] = scratch.shares[c];
  }
}

}  // namespace sparseserve::cpu
