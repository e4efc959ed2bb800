#include "engine/layout/layout_builder.h"

#include <algorithm>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

// The blocks added since the list before become one; returns its id.
int32_t EndList(BlockLayout& layout, int32_t window_tokens) {
  layout.window_tokens.push_back(window_tokens);
  layout.full_offsets.push_back(layout.full_blocks.size());
  layout.partial_offsets.push_back(layout.partial_blocks.size());
  return static_cast<int32_t>(layout.lists()) - 1;
}

}  // namespace

LayoutBuilder::LayoutBuilder(int32_t kv_heads) {
  SPARSESERVE_CHECK(kv_heads >= 1);
  layout_.kv_heads = kv_heads;
}

void LayoutBuilder::Clear() {
  layout_.tiles.clear();
  layout_.list_of.clear();
  layout_.full_offsets.resize(1);
  layout_.full_blocks.clear();
  layout_.partial_offsets.resize(1);
  layout_.partial_blocks.clear();
  layout_.window_tokens.clear();
}

void LayoutBuilder::AddTile(const QueryTile& tile) {
  const int32_t last_position = tile.first_position + tile.rows - 1;
  SPARSESERVE_CHECK(tile.rows >= 1 && tile.first_position >= 0);
  SPARSESERVE_CHECK(tile.first_position / layout_.block_tokens ==
                    last_position / layout_.block_tokens);
  layout_.tiles.push_back(tile);
  layout_.list_of.resize(layout_.list_of.size() + layout_.kv_heads, -1);
}

int32_t LayoutBuilder::AddList(absl::Span<const BlockRange> visible,
                               int32_t window_tokens) {
  SPARSESERVE_CHECK(!layout_.tiles.empty() && window_tokens >= 0);
  const QueryTile& tile = layout_.tiles.back();
  const int32_t query_block = QueryBlock(tile, layout_.block_tokens);
  int32_t first_visible = 0;  // block that the first row's window reaches
  int32_t first_full = 0;     // block that lies in every row's window
  if (window_tokens > 0) {
    const int32_t begin = std::max(tile.first_position - window_tokens + 1, 0);
    const int32_t last_begin =
        std::max(tile.first_position + tile.rows - window_tokens, 0);
    first_visible = begin / layout_.block_tokens;
    first_full = (last_begin + layout_.block_tokens - 1) / layout_.block_tokens;
  }
  for (const BlockRange& range : visible) {
    const int32_t end = std::min(range.end, query_block + 1);
    for (int32_t block = std::max(range.begin, first_visible); block < end;
         ++block) {
      const bool is_full = block < query_block && block >= first_full;
      (is_full ? layout_.full_blocks : layout_.partial_blocks).push_back(block);
    }
  }
  const int32_t list = EndList(layout_, window_tokens);
  SPARSESERVE_CHECK(ListBlocks(list) > 0);
  return list;
}

int32_t LayoutBuilder::AddCopy(const BlockLayout& from, int32_t list) {
  SPARSESERVE_CHECK(!layout_.tiles.empty());
  layout_.full_blocks.insert(
      layout_.full_blocks.end(),
      from.full_blocks.begin() + from.full_offsets[list],
      from.full_blocks.begin() + from.full_offsets[list + 1]);
  layout_.partial_blocks.insert(
      layout_.partial_blocks.end(),
      from.partial_blocks.begin() + from.partial_offsets[list],
      from.partial_blocks.begin() + from.partial_offsets[list + 1]);
  return EndList(layout_, from.WindowOf(list));
}

void LayoutBuilder::Assign(int32_t kv_head, int32_t list) {
  SPARSESERVE_CHECK(kv_head >= 0 && kv_head < layout_.kv_heads);
  SPARSESERVE_CHECK(list >= 0 && list < layout_.lists());
  layout_.list_of[layout_.list_of.size() - layout_.kv_heads + kv_head] = list;
}

int64_t LayoutBuilder::ListBlocks(int32_t list) const {
  return layout_.ListBlocks(list);
}

int32_t QueryBlock(const QueryTile& tile, int32_t block_tokens) {
  return (tile.first_position + tile.rows - 1) / block_tokens;
}

}  // namespace sparseserve
