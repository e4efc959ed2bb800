#include "engine/backend/cpu/mean_key_choice.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/types/span.h"
#include "engine/backend/cpu/packed_queries.h"
#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {
namespace {

// A vector may be rewritten up to so many elements behind its end.
constexpr int kSlack = 16;

// Index of the block that the last row lies in: so many come before it.
int32_t OwnBlock(const SliceRows& rows, const MeanKeyRule& rule) {
  return (rows.blocks() - 1) / rule.block_pages;
}

void ForceRange(int32_t begin, int32_t end, BlockChoice& choice) {
  for (int32_t page = begin; page < end; ++page) choice.Force(page);
}

}  // namespace

void PoolMeanKeys(const SelectionKernels& kernels, const SelectArgs& args,
                  const SliceRows& rows, int32_t kv_head,
                  const MeanKeyRule& rule, PoolingScratch& scratch,
                  PooledBlocks& keys) {
  const int32_t own = OwnBlock(rows, rule);
  if (rule.blocks == 1 || own < rule.blocks) return;
  SliceRows before = {.slice = rows.slice};
  before.rows = own * rule.block_pages * kPageTokens;
  PoolKeys(kernels, args, before, kv_head, scratch, keys);
  JoinBlocks(rule.block_pages, PaddedDepth(args.kv.head_dim), keys);
}

void ForceMeanKeyBlocks(const SelectionKernels& kernels, const SelectArgs& args,
                        const SliceRows& rows, int32_t kv_head,
                        const MeanKeyRule& rule, const PooledBlocks& keys,
                        MeanKeyScratch& scratch, BlockChoice& choice) {
  const int32_t own = OwnBlock(rows, rule);
  if (own < rule.blocks) return ForceRange(0, rows.blocks(), choice);
  ForceRange(own * rule.block_pages, rows.blocks(), choice);
  if (rule.blocks == 1) return;

  PackQueries(args, rows, kv_head, 1.0f, scratch.queries);
  RowProducts products;
  products.queries = scratch.queries.data();
  products.query_rows = args.heads / args.kv.kv_heads * rows.rows;
  products.keys = reinterpret_cast<const std::byte*>(keys.means.data());
  products.key_rows = own;
  products.depth = PaddedDepth(args.kv.head_dim);
  scratch.products.resize(int64_t{products.query_rows} * own + kSlack);
  kernels.multiply(products, own, scratch.products.data());
  const auto all = absl::MakeConstSpan(scratch.products)
                       .first(int64_t{products.query_rows} * own);
  if (!std::all_of(all.begin(), all.end(),
                   [](float product) { return std::isfinite(product); })) {
    return ForceRange(0, rows.blocks(), choice);
  }
  for (int32_t q = 0; q < products.query_rows; ++q) {
    scratch.of_row.Begin(own);
    scratch.of_row.TakeBest(all.subspan(int64_t{q} * own, own),
                            rule.blocks - 1);
    for (int32_t b = 0; b < own; ++b) {
      if (scratch.of_row.chosen()[b] == 0) continue;
      ForceRange(b * rule.block_pages, (b + 1) * rule.block_pages, choice);
    }
  }
}

}  // namespace sparseserve::cpu
