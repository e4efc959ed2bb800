#include "engine/backend/cpu/block_attention.h"

#include <algorithm>

#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

static_assert(kBlockKeys == kPageTokens);

// Walks a list's full and partial blocks in ascending order.
class BlockWalk {
 public:
  BlockWalk(const BlockLayout& layout, int32_t list)
      : full_(layout.full_blocks.data() + layout.full_offsets[list]),
        full_end_(layout.full_blocks.data() + layout.full_offsets[list + 1]),
        partial_(layout.partial_blocks.data() + layout.partial_offsets[list]),
        partial_end_(layout.partial_blocks.data() +
                     layout.partial_offsets[list + 1]) {}

  // False at the end of the list.
  bool Next(int32_t& block, bool& is_full) {
    if (full_ == full_end_ && partial_ == partial_end_) return false;
    is_full =
        partial_ == partial_end_ || (full_ != full_end_ && *full_ < *partial_);
    block = is_full ? *full_++ : *partial_++;
    return true;
  }

 private:
  const int32_t* full_;
  const int32_t* full_end_;
  const int32_t* partial_;
  const int32_t* partial_end_;
};

int64_t ListBlocks(const BlockLayout& layout, int32_t list) {
  return layout.full_offsets[list + 1] - layout.full_offsets[list] +
         layout.partial_offsets[list + 1] - layout.partial_offsets[list];
}

}  // namespace

BlockAttention::BlockAttention(SimdLevel simd, ThreadPool& pool)
    : kernels_(AttentionKernelsFor(simd)), pool_(pool) {
  for (int worker = 0; worker < pool.threads(); ++worker) {
    scratch_.push_back(std::make_unique<AttentionScratch>());
  }
}

void BlockAttention::Run(const AttentionArgs& args) {
  const BlockLayout& layout = *args.layout;
  SPARSESERVE_CHECK(layout.block_tokens == kBlockKeys);
  SPARSESERVE_CHECK(layout.kv_heads == args.kv.kv_heads);
  SPARSESERVE_CHECK(args.heads % args.kv.kv_heads == 0);
  SPARSESERVE_CHECK(args.kv.head_dim % 8 == 0 &&
                    args.kv.head_dim <= kMaxHeadDim);
  items_.clear();
  for (size_t t = 0; t < layout.tiles.size(); ++t) {
    for (int32_t head = 0; head < layout.kv_heads; ++head) {
      const int32_t list = layout.list_of[t * layout.kv_heads + head];
      items_.push_back(
          {.cost = ListBlocks(layout, list) * (layout.tiles[t].rows + 2),
           .tile = static_cast<int32_t>(t),
           .kv_head = head});
    }
  }
  std::sort(items_.begin(), items_.end(),
            [](const Item& a, const Item& b) { return a.cost > b.cost; });
  pool_.ParallelFor(static_cast<int64_t>(items_.size()), 1,
                    [&](int64_t begin, int64_t end, int worker) {
                      for (int64_t i = begin; i < end; ++i) {
                        Attend(args, items_[i], *scratch_[worker]);
                      }
                    });
}

void BlockAttention::Attend(const AttentionArgs& args, const Item& item,
                            AttentionScratch& scratch) const {
  const BlockLayout& layout = *args.layout;
  const QueryTile& tile = layout.tiles[item.tile];
  const absl::Span<const PageId> pages = args.pages[tile.slice];
  const int32_t list =
      layout.list_of[item.tile * layout.kv_heads + item.kv_head];
  const int group = args.heads / args.kv.kv_heads;
  const int head_dim = args.kv.head_dim;
  const int64_t block_bytes =
      int64_t{kBlockKeys} * head_dim * BlockBytes(args.kv.dtype);
  const int packed_rows = tile.rows * group;
  for (int first = 0; first < packed_rows; first += kMaxPackedRows) {
    const int rows = std::min(kMaxPackedRows, packed_rows - first);
    const auto query_row = [&](int r) {
      return tile.first_row + (first + r) / group;
    };
    const auto head = [&](int r) {
      return item.kv_head * group + (first + r) % group;
    };
    for (int r = 0; r < rows; ++r) {
      scratch.queries[r] = args.queries.row(query_row(r)) + head(r) * head_dim;
    }
    kernels_.begin(rows, head_dim, scratch);
    BlockWalk walk(layout, list);
    int32_t block = 0;
    bool is_full = false;
    while (walk.Next(block, is_full)) {
      SPARSESERVE_CHECK(block < static_cast<int64_t>(pages.size()) &&
                        pages[block] >= 0 && pages[block] < args.kv.pages);
      const int64_t offset =
          (int64_t{pages[block]} * args.kv.kv_heads + item.kv_head) *
          block_bytes;
      int loaded_keys = 0;
      for (int r = 0; r < rows; ++r) {
        const int position = tile.first_position + (first + r) / group;
        const int visible = position - block * kBlockKeys + 1;
        scratch.visible_keys[r] =
            is_full ? kBlockKeys : std::clamp(visible, 0, kBlockKeys);
        loaded_keys = std::max(loaded_keys, scratch.visible_keys[r]);
      }
      kernels_.add_block({.keys = args.kv.keys + offset,
                          .values = args.kv.values + offset,
                          .dtype = args.kv.dtype,
                          .head_dim = head_dim,
                          .loaded_keys = loaded_keys,
                          .rows = rows,
                          .scale = args.scale},
                         scratch);
    }
    for (int r = 0; r < rows; ++r) {
      float* output = args.output.row(query_row(r)) + head(r) * head_dim;
      const float lse = kernels_.finish_row(r, head_dim, scratch, output);
      if (args.lse != nullptr) {
        args.lse[int64_t{query_row(r)} * args.heads + head(r)] = lse;
      }
    }
  }
}

}  // namespace sparseserve::cpu
