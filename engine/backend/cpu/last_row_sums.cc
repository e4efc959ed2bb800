#include "engine/backend/cpu/last_row_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/backend/cpu/packed_queries.h"
#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// A vector may be read or rewritten up to so many elements behind its end.
constexpr int kSlack = 16;

class Pass {
 public:
  Pass(const SelectionKernels& kernels, const SelectArgs& args,
       const SliceRows& rows, int32_t kv_head, LastRowScratch& scratch)
      : kernels_(kernels),
        args_(args),
        rows_(rows),
        keys_(args, rows.slice, kv_head),
        query_rows_(args.heads / args.kv.kv_heads * rows.rows),
        scratch_(scratch) {
    PackQueries(args, rows, kv_head, args.scale, scratch.queries);
    scratch.products.resize(query_rows_ * kPageTokens + kSlack);
  }

  int32_t query_rows() const { return query_rows_; }

  // Calls row(q, scores, keys): the scores of the block's first `keys` keys,
  // which are all that query row q sees of it.
  template <typename Row>
  void ForRows(int32_t block, const Row& row) {
    const int32_t first_key = block * kPageTokens;
    Multiply(block, std::min(kPageTokens, rows_.end_position() - first_key));
    for (int32_t q = 0; q < query_rows_; ++q) {
      const int32_t position = rows_.first_position + q % rows_.rows;
      const int32_t keys = std::min(kPageTokens, position + 1 - first_key);
      if (keys > 0) row(q, scratch_.products.data() + q * kPageTokens, keys);
    }
  }

 private:
  void Multiply(int32_t block, int32_t stored) {
    RowProducts rows;
    rows.queries = scratch_.queries.data();
    rows.query_rows = query_rows_;
    rows.keys = keys_.Padded(block, stored, scratch_.keys);
    rows.dtype = args_.kv.dtype;
    rows.key_rows = kPageTokens;
    rows.depth = PaddedDepth(args_.kv.head_dim);
    kernels_.multiply(rows, kPageTokens, scratch_.products.data());
    if (args_.softcap > 0) {
      kernels_.soft_cap(args_.softcap, query_rows_ * kPageTokens,
                        scratch_.products.data());
    }
  }

  const SelectionKernels& kernels_;
  const SelectArgs& args_;
  const SliceRows& rows_;
  const StoredKeys keys_;
  const int32_t query_rows_;
  LastRowScratch& scratch_;
};

}  // namespace

void LastRowSums(const SelectionKernels& kernels, const SelectArgs& args,
                 const SliceRows& rows, int32_t kv_head,
                 LastRowScratch& scratch, AttentionSums& sums) {
  Pass pass(kernels, args, rows, kv_head, scratch);
  scratch.maxima.assign(pass.query_rows(),
                        -std::numeric_limits<float>::infinity());
  scratch.sums.assign(pass.query_rows(), 0.0f);
  for (int32_t block = 0; block < rows.blocks(); ++block) {
    pass.ForRows(block, [&](int32_t q, const float* scores, int32_t keys) {
      float maximum = 0;
      float sum = 0;
      kernels.summarise(scores, keys, maximum, sum);
      const float greater = std::max(scratch.maxima[q], maximum);
      scratch.sums[q] =
          scratch.sums[q] * std::exp(scratch.maxima[q] - greater) +
          sum * std::exp(maximum - greater);
      scratch.maxima[q] = greater;
    });
  }
  for (int32_t q = 0; q < pass.query_rows(); ++q) {
    scratch.sums[q] = scratch.maxima[q] + std::log(scratch.sums[q]);
  }

  // Of a row that is d before the last, key j is at distance last - d - j: as
  // element j + d of the mirrored sums it is a neighbour of the next key's.
  const int32_t end = rows.end_position();
  sums.columns.assign(end + kSlack, 0.0f);
  scratch.mirrored.assign(end + kSlack, 0.0f);
  for (int32_t block = 0; block < rows.blocks(); ++block) {
    const int32_t first_key = block * kPageTokens;
    pass.ForRows(block, [&](int32_t q, const float* scores, int32_t keys) {
      const int32_t before = rows.rows - 1 - q % rows.rows;
      kernels.add_weights(scores, keys, scratch.sums[q],
                          sums.columns.data() + first_key,
                          scratch.mirrored.data() + first_key + before);
    });
  }
  sums.columns.resize(end);
  sums.diagonals.assign(scratch.mirrored.rend() - end, scratch.mirrored.rend());
}

}  // namespace sparseserve::cpu
