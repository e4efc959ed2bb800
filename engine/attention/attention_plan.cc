#include "engine/attention/attention_plan.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/pattern/visible_blocks.h"

namespace sparseserve {

AttentionPlan::AttentionPlan(Shape shape) : shape_(std::move(shape)) {
  SPARSESERVE_CHECK(shape_.layer_windows.empty() ||
                    static_cast<int32_t>(shape_.layer_windows.size()) ==
                        shape_.layers);
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    const int32_t tokens =
        shape_.layer_windows.empty() ? 0 : shape_.layer_windows[layer];
    auto window =
        std::find_if(windows_.begin(), windows_.end(),
                     [&](const Window& w) { return w.tokens == tokens; });
    if (window == windows_.end()) {
      window =
          windows_.insert(window, {tokens, 0, LayoutBuilder(shape_.kv_heads)});
    }
    ++window->layers;
    window_of_.push_back(static_cast<int32_t>(window - windows_.begin()));
  }
}

void AttentionPlan::Build(absl::Span<const PlannedSlice> slices) {
  groups_ = RowGroups();
  first_rows_.assign(slices.size(), 0);
  tokens_.clear();
  positions_.clear();
  kv_slots_.clear();
  pages_.assign(slices.size(), {});
  blocks_.assign(slices.size(), {});
  for (Window& window : windows_) window.builder.Clear();

  for (const Phase phase : {Phase::kDecode, Phase::kPrefill}) {
    int64_t& group_rows =
        phase == Phase::kDecode ? groups_.decode_rows : groups_.prefill_rows;
    for (int32_t i = 0; i < static_cast<int32_t>(slices.size()); ++i) {
      const StepSlice& slice = *slices[i].slice;
      if (slice.phase != phase) continue;
      first_rows_[i] = static_cast<int32_t>(tokens_.size());
      pages_[i] = slice.pages;
      group_rows += static_cast<int64_t>(slice.tokens.size());
      AddRows(slice);
      AddTiles(i, slices[i]);
    }
  }
  for (const Window& window : windows_) {
    SPARSESERVE_DCHECK(window.builder.layout().Validate().ok());
  }
}

void AttentionPlan::AddRows(const StepSlice& slice) {
  int32_t position = slice.first_position;
  for (const TokenId token : slice.tokens) {
    const PageId page = slice.pages[position / kPageTokens];
    tokens_.push_back(token);
    positions_.push_back(position);
    kv_slots_.push_back(int64_t{page} * kPageTokens + position % kPageTokens);
    ++position;
  }
}

void AttentionPlan::AddTiles(int32_t index, const PlannedSlice& planned) {
  constexpr int32_t kBlockTokens = kPageTokens;
  const int32_t begin = planned.slice->first_position;
  const int32_t end =
      begin + static_cast<int32_t>(planned.slice->tokens.size());
  for (int32_t position = begin; position < end;) {
    const int32_t block = position / kBlockTokens;
    QueryTile tile;
    tile.slice = index;
    tile.first_row = first_rows_[index] + (position - begin);
    tile.rows = std::min(end, (block + 1) * kBlockTokens) - position;
    tile.first_position = position;
    for (Window& window : windows_) {
      AddList(planned.pattern, tile, window, blocks_[index]);
    }
    position += tile.rows;
  }
}

void AttentionPlan::AddList(const PatternSpec& pattern, const QueryTile& tile,
                            Window& window, AttentionBlocks& blocks) {
  const int32_t block_tokens = window.builder.layout().block_tokens;
  window.builder.AddTile(tile);
  VisibleBlocks(pattern, tile, block_tokens, ranges_);
  const int32_t list = window.builder.AddList(
      ranges_, NarrowerWindow(WindowTokens(pattern), window.tokens));
  for (int32_t head = 0; head < shape_.kv_heads; ++head) {
    window.builder.Assign(head, list);
  }
  const int64_t passes = int64_t{window.layers} * shape_.kv_heads;
  blocks.computed += window.builder.ListBlocks(list) * passes;
  blocks.allowed += (QueryBlock(tile, block_tokens) + 1) * passes;
}

}  // namespace sparseserve
