#include "engine/backend/cpu/block_attention.h"

#include <algorithm>

#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

static_assert(kBlockKeys == kPageTokens);

struct ListedBlock {
  int32_t index = 0;
  bool is_full = false;
};

// Walks a list's full and partial blocks in ascending order.
class BlockWalk {
 public:
  BlockWalk(const BlockLayout& layout, int32_t list)
      : full_(layout.full_blocks.data() + layout.full_offsets[list]),
        full_end_(layout.full_blocks.data() + layout.full_offsets[list + 1]),
        partial_(layout.partial_blocks.data() + layout.partial_offsets[list]),
        partial_end_(layout.partial_blocks.data() +
                     layout.partial_offsets[list + 1]) {}

  // False at the end of the list, with `block` unchanged.
  bool Next(ListedBlock& block) {
    if (full_ == full_end_ && partial_ == partial_end_) return false;
    block.is_full =
        partial_ == partial_end_ || (full_ != full_end_ && *full_ < *partial_);
    block.index = block.is_full ? *full_++ : *partial_++;
    return true;
  }

 private:
  const int32_t* full_;
  const int32_t* full_end_;
  const int32_t* partial_;
  const int32_t* partial_end_;
};

// Which keys of `block` each row sees; returns the end of the last that any
// does. `window_tokens` is the list's.
int SetVisibleKeys(const PackedRows& rows, const ListedBlock& block,
                   int32_t window_tokens, AttentionScratch& scratch) {
  if (block.is_full) {
    std::fill_n(scratch.visible_begin, rows.count, 0);
    std::fill_n(scratch.visible_end, rows.count, kBlockKeys);
    return kBlockKeys;
  }
  int last = 0;
  for (int r = 0; r < rows.count; ++r) {
    const int end = rows.position(r) - block.index * kBlockKeys + 1;
    const int begin = window_tokens == 0 ? 0 : end - window_tokens;
    scratch.visible_begin[r] = std::clamp(begin, 0, kBlockKeys);
    scratch.visible_end[r] = std::clamp(end, 0, kBlockKeys);
    last = std::max(last, scratch.visible_end[r]);
  }
  return last;
}

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
  const int32_t list =
      layout.list_of[item.tile * layout.kv_heads + item.kv_head];
  PackedRows rows;
  rows.tile = layout.tiles[item.tile];
  rows.kv_head = item.kv_head;
  rows.group = args.heads / args.kv.kv_heads;
  const int packed = rows.tile.rows * rows.group;
  for (; rows.first < packed; rows.first += kMaxPackedRows) {
    rows.count = std::min(kMaxPackedRows, packed - rows.first);
    for (int r = 0; r < rows.count; ++r) {
      scratch.queries[r] =
          args.queries.row(rows.query_row(r)) + rows.head(r) * args.kv.head_dim;
    }
    kernels_.begin(rows.count, args.kv.head_dim, scratch);
    AddBlocks(args, rows, list, scratch);
    for (int r = 0; r < rows.count; ++r) {
      const int64_t row = rows.query_row(r);
      const int head = rows.head(r);
      const float lse =
          kernels_.finish_row(r, args.kv.head_dim, scratch,
                              args.output.row(row) + head * args.kv.head_dim);
      if (args.lse != nullptr) args.lse[row * args.heads + head] = lse;
    }
  }
}

void BlockAttention::AddBlocks(const AttentionArgs& args,
                               const PackedRows& rows, int32_t list,
                               AttentionScratch& scratch) const {
  const KvLayerView& kv = args.kv;
  const absl::Span<const PageId> pages = args.pages[rows.tile.slice];
  const int64_t block_bytes =
      int64_t{kBlockKeys} * kv.head_dim * BlockBytes(kv.dtype);
  const auto offset_of = [&](const ListedBlock& block) {
    SPARSESERVE_CHECK(block.index < static_cast<int64_t>(pages.size()));
    const PageId page = pages[block.index];
    SPARSESERVE_CHECK(page >= 0 && page < kv.pages);
    return (int64_t{page} * kv.kv_heads + rows.kv_head) * block_bytes;
  };
  const int32_t window_tokens = args.layout->WindowOf(list);
  BlockWalk walk(*args.layout, list);
  ListedBlock next;
  bool has_next = walk.Next(next);
  while (has_next) {
    const ListedBlock block = next;
    has_next = walk.Next(next);
    const int64_t offset = offset_of(block);
    const int64_t next_offset = offset_of(next);
    kernels_.add_block(
        {.keys = kv.keys + offset,
         .values = kv.values + offset,
         .next_keys = kv.keys + next_offset,
         .next_values = kv.values + next_offset,
         .dtype = kv.dtype,
         .head_dim = kv.head_dim,
         .loaded_keys = SetVisibleKeys(rows, block, window_tokens, scratch),
         .rows = rows.count,
         .scale = args.scale,
         .softcap = args.softcap},
        scratch);
  }
}

}  // namespace sparseserve::cpu
