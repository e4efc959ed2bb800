#include "engine/backend/cuda/device_layout.h"

#include <algorithm>
#include <bit>

#include "engine/base/check.h"

namespace sparseserve::cuda {
namespace {

// Sizes are rounded up to powers of two, so that steps of sequences that grow
// have arrays of the same sizes most of the time (StepArrays).
int64_t RoundedUp(int64_t size, int64_t least) {
  return std::max(
      least, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(size))));
}

int64_t TableStride(absl::Span<const absl::Span<const PageId>> pages) {
  int64_t longest = 1;
  for (const auto& slice : pages) {
    longest = std::max(longest, static_cast<int64_t>(slice.size()));
  }
  return RoundedUp(longest, 64);
}

void AddTable(absl::Span<const PageId> pages, int64_t stride,
              std::vector<int32_t>& tables) {
  tables.insert(tables.end(), pages.begin(), pages.end());
  tables.resize(tables.size() + stride - pages.size(), 0);
}

template <typename T>
const T* ToDevice(const std::vector<T>& values, StepArrays& arrays) {
  return arrays.Copy(absl::MakeConstSpan(values));
}

}  // namespace

absl::StatusOr<DeviceLayout> DeviceLayoutBuilder::Build(
    const BlockLayout& layout, absl::Span<const absl::Span<const PageId>> pages,
    int64_t decode_rows, StepArrays& arrays) {
  if (layout.has_masks || !layout.bias_tiles.empty()) {
    return absl::UnimplementedError(
        "attention with masks or biases runs on CPU only");
  }
  SPARSESERVE_CHECK(layout.block_tokens == kPageTokens);
  DeviceLayout result;
  const int64_t stride = TableStride(pages);
  result.page_table_stride = stride;

  DeviceLayout::OutputRows& output_rows = result.output_rows;
  output_rows.rows = static_cast<int32_t>(decode_rows);
  output_rows.tiles.assign(decode_rows, -1);
  output_rows.blocks.assign(decode_rows, 0);
  row_lengths_.assign(decode_rows, 0);
  lengths_.assign(decode_rows, 0);
  counts_.assign(decode_rows * layout.kv_heads, 0);
  offsets_.assign(decode_rows * layout.kv_heads, 0);
  decode_slices_.assign(decode_rows, -1);
  blocks_.clear();
  tile_fields_.clear();
  list_of_.clear();
  for (size_t t = 0; t < layout.tiles.size(); ++t) {
    const QueryTile& fields = layout.tiles[t];
    if (fields.first_row < decode_rows && fields.rows == 1) {
      const int32_t row = fields.first_row;
      output_rows.tiles[row] = static_cast<int32_t>(t);
      output_rows.blocks[row] = fields.first_position / kPageTokens + 1;
      row_lengths_[row] = fields.first_position + 1;
      decode_slices_[row] = fields.slice;
    }
    if (IsForDecode(layout, t, decode_rows)) {
      AddDecodeTile(layout, t);
    } else {
      AddPrefillTile(layout, t, result.prefill_tiles);
    }
  }

  if (!tile_fields_.empty()) {
    tables_.clear();
    for (const auto& slice : pages) AddTable(slice, stride, tables_);
    result.page_tables = ToDevice(tables_, arrays);
    AddMasks(layout);
    OrderPrefill(layout);
    DeviceBlockLists& lists = result.prefill;
    lists.tiles = static_cast<int32_t>(tile_fields_.size() / 4);
    lists.tile_fields = ToDevice(tile_fields_, arrays);
    lists.list_of = ToDevice(list_of_, arrays);
    lists.full_offsets = ToDevice(layout.full_offsets, arrays);
    lists.full_blocks = ToDevice(layout.full_blocks, arrays);
    lists.partial_offsets = ToDevice(layout.partial_offsets, arrays);
    lists.partial_blocks = ToDevice(layout.partial_blocks, arrays);
    lists.partial_masks = ToDevice(masks_, arrays);
    lists.order = ToDevice(order_, arrays);
    DeviceLayout::PrefillTiles& tiles = result.prefill_tiles;
    tiles.first_tiles.push_back(lists.tiles);
    tiles.lists = layout.lists();
    tiles.full_blocks = static_cast<int64_t>(layout.full_blocks.size());
    tiles.partial_blocks = static_cast<int64_t>(layout.partial_blocks.size());
  }
  FinishDecode(pages, result, arrays);
  if (!arrays.status().ok()) return arrays.status();
  return result;
}

void DeviceLayoutBuilder::FinishDecode(
    absl::Span<const absl::Span<const PageId>> pages, DeviceLayout& result,
    StepArrays& arrays) {
  const auto has_rows = [](const std::vector<int32_t>& lengths) {
    return std::any_of(lengths.begin(), lengths.end(),
                       [](int32_t length) { return length > 0; });
  };
  if (!has_rows(row_lengths_)) return;
  decode_tables_.clear();
  for (const int32_t slice : decode_slices_) {
    AddTable(slice < 0 ? absl::Span<const PageId>() : pages[slice],
             result.page_table_stride, decode_tables_);
  }
  DeviceLayout::Decode& decode = result.decode;
  decode.page_tables = ToDevice(decode_tables_, arrays);
  if (has_rows(lengths_)) {
    blocks_.resize(blocks_.empty()
                       ? 0
                       : RoundedUp(static_cast<int64_t>(blocks_.size()), 1024));
    decode.sequences = result.output_rows.rows;
    decode.lengths = ToDevice(lengths_, arrays);
    decode.lists.block_counts = ToDevice(counts_, arrays);
    decode.lists.block_offsets = ToDevice(offsets_, arrays);
    decode.lists.blocks = ToDevice(blocks_, arrays);
  }
  decode.counts = counts_;
  decode.offsets = offsets_;
  decode.blocks = blocks_;
  result.output_rows.lengths = row_lengths_ == lengths_
                                   ? decode.lengths
                                   : ToDevice(row_lengths_, arrays);
}

bool DeviceLayoutBuilder::IsForDecode(const BlockLayout& layout, size_t tile,
                                      int64_t decode_rows) const {
  const QueryTile& fields = layout.tiles[tile];
  if (fields.first_row >= decode_rows || fields.rows != 1) return false;
  for (int32_t head = 0; head < layout.kv_heads; ++head) {
    const int32_t list = layout.list_of[tile * layout.kv_heads + head];
    const KeyPredicate* predicate = layout.PredicateOf(list);
    if (predicate == nullptr || predicate->IsCausality()) continue;
    // A list without partial blocks but the row's own needs no predicate only
    // if that one is seen whole up to the row.
    for (int64_t i = layout.partial_offsets[list];
         i < layout.partial_offsets[list + 1]; ++i) {
      const int64_t first = int64_t{layout.partial_blocks[i]} * kPageTokens;
      const int64_t seen = fields.first_position - first + 1;
      const uint64_t all =
          seen >= kPageTokens ? ~uint64_t{0} : (uint64_t{1} << seen) - 1;
      if (predicate->SeenBits(fields.first_position, first) != all)
        return false;
    }
  }
  return true;
}

void DeviceLayoutBuilder::AddDecodeTile(const BlockLayout& layout,
                                        size_t tile) {
  const QueryTile& fields = layout.tiles[tile];
  const int32_t row = fields.first_row;
  lengths_[row] = fields.first_position + 1;
  const int64_t all_blocks = fields.first_position / kPageTokens + 1;
  for (int32_t head = 0; head < layout.kv_heads; ++head) {
    const size_t pair = tile * layout.kv_heads + head;
    const int32_t list = layout.list_of[pair];
    const size_t to = size_t(row) * layout.kv_heads + head;
    const int64_t count = layout.ListBlocks(list);
    if (count == all_blocks) {
      counts_[to] = kAllBlocks;
      continue;
    }
    counts_[to] = static_cast<int32_t>(count);
    if (head > 0 && layout.list_of[pair - 1] == list) {
      offsets_[to] = offsets_[to - 1];
      continue;
    }
    offsets_[to] = static_cast<int64_t>(blocks_.size());
    blocks_.insert(blocks_.end(),
                   layout.full_blocks.begin() + layout.full_offsets[list],
                   layout.full_blocks.begin() + layout.full_offsets[list + 1]);
    blocks_.insert(
        blocks_.end(),
        layout.partial_blocks.begin() + layout.partial_offsets[list],
        layout.partial_blocks.begin() + layout.partial_offsets[list + 1]);
  }
}

void DeviceLayoutBuilder::AddPrefillTile(const BlockLayout& layout, size_t tile,
                                         DeviceLayout::PrefillTiles& tiles) {
  const QueryTile& fields = layout.tiles[tile];
  const bool begins = tiles.tiles.empty() ||
                      layout.tiles[tiles.tiles.back()].slice != fields.slice;
  if (begins) {
    tiles.first_tiles.push_back(static_cast<int32_t>(tiles.tiles.size()));
  }
  tiles.tiles.push_back(static_cast<int32_t>(tile));
  tiles.most_blocks =
      std::max(tiles.most_blocks,
               (fields.first_position + fields.rows - 1) / kPageTokens + 1);
  tile_fields_.insert(tile_fields_.end(), {fields.slice, fields.first_row,
                                           fields.rows, fields.first_position});
  const auto lists = layout.list_of.begin() + tile * layout.kv_heads;
  list_of_.insert(list_of_.end(), lists, lists + layout.kv_heads);
}

// Words of bits, only if some list has a predicate. A list's tiles share their
// positions within the block, so the first tile that has it stands for all.
void DeviceLayoutBuilder::AddMasks(const BlockLayout& layout) {
  masks_.clear();
  const auto needs = [&](int32_t list) {
    const KeyPredicate* predicate = layout.PredicateOf(list);
    return predicate != nullptr && !predicate->IsCausality();
  };
  if (std::none_of(list_of_.begin(), list_of_.end(), needs)) return;
  masks_.assign(layout.partial_blocks.size() * kPageTokens, 0);
  const KeyPredicate causality = {AllKeys{}};
  for (size_t i = 0; i < list_of_.size(); ++i) {
    const int32_t list = list_of_[i];
    const int32_t* fields = &tile_fields_[i / layout.kv_heads * 4];
    const KeyPredicate* predicate = layout.PredicateOf(list);
    if (predicate == nullptr) predicate = &causality;
    for (int64_t entry = layout.partial_offsets[list];
         entry < layout.partial_offsets[list + 1]; ++entry) {
      const int64_t first_key =
          int64_t{layout.partial_blocks[entry]} * kPageTokens;
      for (int32_t row = 0; row < fields[2]; ++row) {
        masks_[entry * kPageTokens + row] =
            predicate->SeenBits(fields[3] + row, first_key);
      }
    }
  }
}

// KV head by KV head, so that keys come from the cache, longest lists first, so
// that all thread blocks end together.
void DeviceLayoutBuilder::OrderPrefill(const BlockLayout& layout) {
  const int32_t kv_heads = layout.kv_heads;
  const int32_t tiles = static_cast<int32_t>(tile_fields_.size() / 4);
  order_.resize(tiles * kv_heads);
  for (int32_t head = 0; head < kv_heads; ++head) {
    const auto begin = order_.begin() + int64_t{head} * tiles;
    for (int32_t tile = 0; tile < tiles; ++tile) {
      begin[tile] = tile * kv_heads + head;
    }
    std::stable_sort(begin, begin + tiles, [&](int32_t a, int32_t b) {
      return layout.ListBlocks(list_of_[a]) > layout.ListBlocks(list_of_[b]);
    });
  }
}

PagedKv Paged(const KvLayerView& view, const int32_t* page_tables,
              int64_t stride) {
  PagedKv kv;
  kv.keys = view.keys;
  kv.values = view.values;
  kv.pages = view.pages;
  kv.kv_heads = view.kv_heads;
  kv.head_dim = view.head_dim;
  kv.page_tables = page_tables;
  kv.page_table_stride = stride;
  return kv;
}

}  // namespace sparseserve::cuda
