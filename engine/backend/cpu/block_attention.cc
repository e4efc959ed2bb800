#include "engine/backend/cpu/block_attention.h"

#include <algorithm>

#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

static_assert(kBlockKeys == kPageTokens);

// With fewer (tile, KV head) pairs a worker, pairs are split.
constexpr int kPairsPerWorker = 4;

struct ListedBlock {
  int32_t index = 0;
  int64_t entry = 0;  // in full_blocks or partial_blocks
  bool is_full = false;
};

// Walks a list's full and partial blocks that are in [first_block, end_block)
// in ascending order.
class BlockWalk {
 public:
  BlockWalk(const BlockLayout& layout, int32_t list, int32_t first_block,
            int32_t end_block)
      : all_full_(layout.full_blocks.data()),
        all_partial_(layout.partial_blocks.data()),
        full_(layout.full_blocks.data() + layout.full_offsets[list]),
        full_end_(layout.full_blocks.data() + layout.full_offsets[list + 1]),
        partial_(layout.partial_blocks.data() + layout.partial_offsets[list]),
        partial_end_(layout.partial_blocks.data() +
                     layout.partial_offsets[list + 1]) {
    full_ = std::lower_bound(full_, full_end_, first_block);
    full_end_ = std::lower_bound(full_, full_end_, end_block);
    partial_ = std::lower_bound(partial_, partial_end_, first_block);
    partial_end_ = std::lower_bound(partial_, partial_end_, end_block);
  }

  int64_t left() const {
    return (full_end_ - full_) + (partial_end_ - partial_);
  }
  // False at the end of the list, with `block` unchanged.
  bool Next(ListedBlock& block) {
    if (full_ == full_end_ && partial_ == partial_end_) return false;
    block.is_full =
        partial_ == partial_end_ || (full_ != full_end_ && *full_ < *partial_);
    block.entry = block.is_full ? full_ - all_full_ : partial_ - all_partial_;
    block.index = block.is_full ? *full_++ : *partial_++;
    return true;
  }

 private:
  const int32_t* all_full_;
  const int32_t* all_partial_;
  const int32_t* full_;
  const int32_t* full_end_;
  const int32_t* partial_;
  const int32_t* partial_end_;
};

// Writes what the rows see of a listed block into the scratch.
VisibleKeys SetVisibleOf(const BlockLayout& layout, int32_t list,
                         const ListedBlock& block, const PackedRows& rows,
                         AttentionScratch& scratch) {
  if (block.is_full) return SetAllVisible(rows, scratch);
  if (layout.has_masks) {
    return SetMasked(rows, layout.masks.data() + block.entry * kBlockKeys,
                     scratch);
  }
  const KeyPredicate causality;
  const KeyPredicate* predicate = layout.PredicateOf(list);
  return SetVisible(rows, block.index,
                    predicate == nullptr ? causality : *predicate, scratch);
}

// One past the last block of a list.
int32_t EndOfList(const BlockLayout& layout, int32_t list) {
  int32_t end = 0;
  const int64_t full = layout.full_offsets[list + 1];
  const int64_t partial = layout.partial_offsets[list + 1];
  if (full > layout.full_offsets[list]) {
    end = layout.full_blocks[full - 1] + 1;
  }
  if (partial > layout.partial_offsets[list]) {
    end = std::max(end, layout.partial_blocks[partial - 1] + 1);
  }
  return end;
}

// What multiplies scores before the softmax: capped ones are scaled already.
float SoftmaxScale(const AttentionArgs& args) {
  return args.softcap > 0 ? 1.0f : args.scale;
}

float SkipBelow(const BlockLayout& layout, int32_t tile, int32_t kv_head) {
  if (layout.skip_below.empty()) return kNoSkip;
  return layout.skip_below[int64_t{tile} * layout.kv_heads + kv_head];
}

// A pass's rows from the first of (tile, KV head) on.
PackedRows RowsOf(const AttentionArgs& args, int32_t tile, int32_t kv_head) {
  PackedRows rows;
  rows.tile = args.layout->tiles[tile];
  rows.kv_head = kv_head;
  rows.group = args.heads / args.kv.kv_heads;
  return rows;
}

}  // namespace

BlockAttention::BlockAttention(SimdLevel simd, bool rounds_prefill,
                               ThreadPool& pool)
    : kernels_(AttentionKernelsFor(simd, RowCount::kMany)),
      decode_kernels_(AttentionKernelsFor(simd, RowCount::kFew)),
      pool_(pool) {
  if (rounds_prefill) amx_kernels_ = FindAmxAttentionKernels();
  for (int worker = 0; worker < pool.threads(); ++worker) {
    scratch_.push_back(std::make_unique<AttentionScratch>());
    if (amx_kernels_ == nullptr) continue;
    amx_scratch_.push_back(std::make_unique<AmxScratch>());
    amx_scratch_.back()->cap_scores = kernels_.cap_scores;
    scratch_.back()->amx = amx_scratch_.back().get();
  }
}

// A row's kernels follow from its own kind alone, never from what is beside it.
const AttentionKernels& BlockAttention::KernelsOf(const AttentionArgs& args,
                                                  const QueryTile& tile) const {
  const int64_t row = tile.first_row - args.groups.decode_rows;
  if (row < 0) return decode_kernels_;
  const bool is_prefill = row < args.groups.prefill_rows;
  // AMX's tiles know no biases: a layout that has any is for floats, whole.
  const bool has_bias = !args.layout->bias_tiles.empty();
  return is_prefill && !has_bias && amx_kernels_ != nullptr &&
                 args.kv.dtype == DType::kBF16
             ? *amx_kernels_
             : kernels_;
}

void BlockAttention::Run(const AttentionArgs& args) {
  const BlockLayout& layout = *args.layout;
  SPARSESERVE_CHECK(layout.block_tokens == kBlockKeys);
  SPARSESERVE_CHECK(layout.kv_heads == args.kv.kv_heads);
  SPARSESERVE_CHECK(args.heads % args.kv.kv_heads == 0);
  SPARSESERVE_CHECK(args.kv.head_dim % 8 == 0 &&
                    args.kv.head_dim <= kMaxHeadDim);
  ListItems(args);
  std::sort(items_.begin(), items_.end(),
            [](const Item& a, const Item& b) { return a.cost > b.cost; });
  pool_.ParallelFor(static_cast<int64_t>(items_.size()), 1,
                    [&](int64_t begin, int64_t end, int worker) {
                      for (int64_t i = begin; i < end; ++i) {
                        Attend(args, items_[i], *scratch_[worker]);
                      }
                    });
  for (const SplitPair& pair : pairs_) Merge(args, pair, *scratch_[0]);
  if (args.skipped == nullptr) return;
  for (const Item& item : items_) {
    args.skipped[int64_t{item.tile} * layout.kv_heads + item.kv_head] +=
        item.skipped;
  }
}

void BlockAttention::ListItems(const AttentionArgs& args) {
  const BlockLayout& layout = *args.layout;
  items_.clear();
  pairs_.clear();
  const int group = args.heads / args.kv.kv_heads;
  const int64_t pairs =
      static_cast<int64_t>(layout.tiles.size()) * layout.kv_heads;
  const bool few_pairs =
      pool_.threads() > 1 && pairs < int64_t{kPairsPerWorker} * pool_.threads();
  int32_t partials = 0;
  for (size_t t = 0; t < layout.tiles.size(); ++t) {
    const int rows = layout.tiles[t].rows;
    for (int32_t head = 0; head < layout.kv_heads; ++head) {
      const int32_t list = layout.list_of[t * layout.kv_heads + head];
      const int32_t end = EndOfList(layout, list);
      Item item = {.cost = layout.ListBlocks(list) * (rows + 2),
                   .tile = static_cast<int32_t>(t),
                   .kv_head = head,
                   .end_block = end};
      if (!few_pairs || !MayBeSplit(rows * group) || end <= kStretchBlocks ||
          &KernelsOf(args, layout.tiles[t]) == amx_kernels_) {
        items_.push_back(item);
        continue;
      }
      const int32_t first_partial = partials;
      for (int32_t block = 0; block < end; block += kStretchBlocks) {
        item.first_block = block;
        item.end_block = std::min(end, block + kStretchBlocks);
        const int64_t listed =
            BlockWalk(layout, list, item.first_block, item.end_block).left();
        if (listed == 0) continue;
        item.cost = listed * (rows + 2);
        item.partial = partials++;
        items_.push_back(item);
      }
      pairs_.push_back({item.tile, head, first_partial, partials});
    }
  }
  if (partials_.size() < static_cast<size_t>(partials)) {
    partials_.resize(partials);
  }
}

void BlockAttention::Attend(const AttentionArgs& args, Item& item,
                            AttentionScratch& scratch) {
  scratch.skipped = 0;
  PackedRows rows = RowsOf(args, item.tile, item.kv_head);
  const int head_dim = args.kv.head_dim;
  const int packed = rows.tile.rows * rows.group;
  const AttentionKernels& kernels = KernelsOf(args, rows.tile);
  for (; rows.first < packed; rows.first += kMaxPackedRows) {
    rows.count = std::min(kMaxPackedRows, packed - rows.first);
    for (int r = 0; r < rows.count; ++r) {
      scratch.queries[r] =
          args.queries.row(rows.query_row(r)) + rows.head(r) * head_dim;
    }
    kernels.begin(rows.count, head_dim, SoftmaxScale(args), scratch);
    AddBlocks(args, rows, item, scratch);
    if (item.partial < 0) {
      Finish(kernels, args, rows, scratch);
      continue;
    }
    Partial& partial = partials_[item.partial];
    std::copy_n(scratch.total_maximum, rows.count, partial.maximum);
    std::copy_n(scratch.total_sum, rows.count, partial.sum);
    std::copy_n(scratch.total_output, rows.count * RowStride(head_dim),
                partial.output);
  }
  item.skipped = scratch.skipped;
}

void BlockAttention::Merge(const AttentionArgs& args, const SplitPair& pair,
                           AttentionScratch& scratch) const {
  PackedRows rows = RowsOf(args, pair.tile, pair.kv_head);
  rows.count = rows.tile.rows * rows.group;
  const int head_dim = args.kv.head_dim;
  kernels_.begin(rows.count, head_dim, SoftmaxScale(args), scratch);
  for (int32_t p = pair.first_partial; p < pair.end_partial; ++p) {
    const Partial& partial = partials_[p];
    std::copy_n(partial.maximum, rows.count, scratch.maximum);
    std::copy_n(partial.sum, rows.count, scratch.sum);
    std::copy_n(partial.output, rows.count * RowStride(head_dim),
                scratch.output);
    kernels_.end_stretch(rows.count, head_dim, scratch);
  }
  Finish(kernels_, args, rows, scratch);
}

void BlockAttention::Finish(const AttentionKernels& kernels,
                            const AttentionArgs& args, const PackedRows& rows,
                            AttentionScratch& scratch) const {
  const int head_dim = args.kv.head_dim;
  for (int r = 0; r < rows.count; ++r) {
    const int64_t row = rows.query_row(r);
    const int head = rows.head(r);
    const float lse = kernels.finish_row(
        r, head_dim, scratch, args.output.row(row) + head * head_dim);
    if (args.lse != nullptr) args.lse[row * args.heads + head] = lse;
  }
}

// Tiles multiply blocks side by side, and one alone takes longer. So of lists
// that positions did not make, which have gaps, they count those listed. A list
// with a predicate may be that of some rows of its block, who see fewer blocks
// than all: only places in the sequence are the same for both. Without one it
// is every block, which counts alike, or a choice, which whole blocks make.
bool BlockAttention::CountsListed(const AttentionArgs& args,
                                  const Item& item) const {
  const BlockLayout& layout = *args.layout;
  const int32_t list =
      layout.list_of[item.tile * layout.kv_heads + item.kv_head];
  return &KernelsOf(args, layout.tiles[item.tile]) == amx_kernels_ &&
         !layout.has_masks && layout.PredicateOf(list) == nullptr;
}

void BlockAttention::AddBlocks(const AttentionArgs& args,
                               const PackedRows& rows, const Item& item,
                               AttentionScratch& scratch) const {
  const KvLayerView& kv = args.kv;
  const BlockLayout& layout = *args.layout;
  const int32_t list =
      layout.list_of[item.tile * layout.kv_heads + item.kv_head];
  const absl::Span<const PageId> pages = args.pages[rows.tile.slice];
  const int64_t block_bytes =
      int64_t{kBlockKeys} * kv.head_dim * BlockBytes(kv.dtype);
  const auto offset_of = [&](const ListedBlock& block) {
    SPARSESERVE_CHECK(block.index < static_cast<int64_t>(pages.size()));
    const PageId page = pages[block.index];
    SPARSESERVE_CHECK(page >= 0 && page < kv.pages);
    return (int64_t{page} * kv.kv_heads + rows.kv_head) * block_bytes;
  };
  const AttentionKernels& kernels = KernelsOf(args, rows.tile);
  const float skip_below = SkipBelow(layout, item.tile, item.kv_head);
  // Whether a pair is split must not show.
  const bool skips_by_total = !MayBeSplit(rows.tile.rows * rows.group);
  const bool counts_listed = CountsListed(args, item);
  BlockWalk walk(layout, list, item.first_block, item.end_block);
  ListedBlock next;
  bool has_next = walk.Next(next);
  for (int32_t listed = 0; has_next; ++listed) {
    const ListedBlock block = next;
    has_next = walk.Next(next);
    const int32_t place = counts_listed ? listed : block.index;
    const int32_t next_place = counts_listed ? listed + 1 : next.index;
    const int64_t offset = offset_of(block);
    const int64_t next_offset = offset_of(next);
    const VisibleKeys visible =
        SetVisibleOf(layout, list, block, rows, scratch);
    const float* bias = block.is_full ? layout.FullBias(block.entry)
                                      : layout.PartialBias(block.entry);
    if (bias != nullptr) SetBias(rows, bias, scratch);
    kernels.add_block({.place = place,
                       .keys = kv.keys + offset,
                       .values = kv.values + offset,
                       .next_keys = kv.keys + next_offset,
                       .next_values = kv.values + next_offset,
                       .dtype = kv.dtype,
                       .head_dim = kv.head_dim,
                       .loaded_keys = visible.end,
                       .is_full = block.is_full,
                       .has_bits = visible.has_bits,
                       .has_bias = bias != nullptr,
                       .rows = rows.count,
                       .scale = args.scale,
                       .softcap = args.softcap,
                       .skip_below = bias == nullptr ? skip_below : kNoSkip,
                       .skips_by_total = skips_by_total},
                      scratch);
    if (!has_next || next_place / kStretchBlocks != place / kStretchBlocks) {
      kernels.end_stretch(rows.count, kv.head_dim, scratch);
    }
  }
}

}  // namespace sparseserve::cpu
