#include "engine/backend/cpu/page_bounds.h"

#include <algorithm>

#include "engine/backend/cpu/attention_kernels.h"
#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve::cpu {
namespace {

// Rows that one worker takes at a time: those of a page.
constexpr int64_t kRowGrain = kPageTokens;

bool FillsPage(int64_t slot) { return slot % kPageTokens == kPageTokens - 1; }

// [2, head_dim] of one KV head of a page.
std::byte* BoundsOf(const KvLayerView& kv, int64_t page, int32_t kv_head) {
  return kv.key_bounds + (page * kv.kv_heads + kv_head) * 2 * kv.head_dim *
                             BlockBytes(kv.dtype);
}

void StoreBounds(const SelectionKernels& kernels, const KvLayerView& kv,
                 int64_t page, int32_t kv_head) {
  const int64_t count = 2 * int64_t{kv.head_dim};
  const std::byte* keys = kv.keys + (page * kv.kv_heads + kv_head) *
                                        kPageTokens * kv.head_dim *
                                        BlockBytes(kv.dtype);
  float bounds[2 * kMaxHeadDim];
  kernels.bound_rows(keys, kv.dtype, kPageTokens, kv.head_dim, bounds,
                     bounds + kv.head_dim);
  std::byte* const to = BoundsOf(kv, page, kv_head);
  if (kv.dtype == DType::kBF16) {
    // Exact: they are elements of keys that are stored so.
    std::transform(bounds, bounds + count, reinterpret_cast<uint16_t*>(to),
                   FloatToBFloat16);
  } else {
    std::copy_n(bounds, count, reinterpret_cast<float*>(to));
  }
}

// max(q M, q m) is q M for a positive q and q m for a negative one, so the sum
// over rows and heads is one product: of the sums of either kind with M and m.
void AddQueries(const SelectArgs& args, const SliceRows& rows, int32_t kv_head,
                std::vector<float>& queries) {
  const int32_t head_dim = args.kv.head_dim;
  const int32_t heads = args.heads / args.kv.kv_heads;
  queries.assign(2 * size_t(head_dim), 0.0f);
  for (int32_t r = 0; r < rows.rows; ++r) {
    const float* from = args.queries.row(rows.first_row + r) +
                        int64_t{kv_head} * heads * head_dim;
    for (int32_t h = 0; h < heads; ++h, from += head_dim) {
      for (int32_t i = 0; i < head_dim; ++i) {
        // In this order what is no number stays so.
        queries[i] += std::max(from[i], 0.0f);
        queries[head_dim + i] += std::min(from[i], 0.0f);
      }
    }
  }
}

}  // namespace

void StorePageBounds(const SelectionKernels& kernels, const KvLayerView& kv,
                     absl::Span<const int64_t> kv_slots, ThreadPool& pool) {
  SPARSESERVE_CHECK(kv.key_bounds != nullptr && kv.head_dim <= kMaxHeadDim);
  // Most steps of decoding fill none.
  if (std::none_of(kv_slots.begin(), kv_slots.end(), FillsPage)) return;
  pool.ParallelFor(static_cast<int64_t>(kv_slots.size()), kRowGrain,
                   [&](int64_t begin, int64_t end, int) {
                     for (int64_t row = begin; row < end; ++row) {
                       if (!FillsPage(kv_slots[row])) continue;
                       for (int32_t head = 0; head < kv.kv_heads; ++head) {
                         StoreBounds(kernels, kv, kv_slots[row] / kPageTokens,
                                     head);
                       }
                     }
                   });
}

void PageBoundScores(const SelectionKernels& kernels, const SelectArgs& args,
                     const SliceRows& rows, int32_t kv_head, int32_t blocks,
                     PageBoundScratch& scratch, std::vector<float>& scores) {
  const KvLayerView& kv = args.kv;
  const absl::Span<const PageId> pages = args.pages[rows.slice];
  SPARSESERVE_CHECK(kv.key_bounds != nullptr);
  SPARSESERVE_CHECK(blocks <= static_cast<int64_t>(pages.size()));
  AddQueries(args, rows, kv_head, scratch.queries);
  scores.resize(blocks);
  RowProducts product;
  product.queries = scratch.queries.data();
  product.query_rows = 1;
  product.dtype = kv.dtype;
  product.key_rows = 1;
  product.depth = 2 * int64_t{kv.head_dim};
  for (int32_t block = 0; block < blocks; ++block) {
    const PageId page = pages[block];
    SPARSESERVE_CHECK(page >= 0 && page < kv.pages);
    product.keys = BoundsOf(kv, page, kv_head);
    kernels.multiply(product, 1, &scores[block]);
  }
}

}  // namespace sparseserve::cpu
