#include "engine/attention/attention_plan.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "engine/pattern/static_keys.h"

namespace sparseserve {
namespace {

// -1 if the slice does not say where its prompt ends.
int32_t LastPromptBlock(const StepSlice& slice) {
  if (!slice.prompt.empty()) {
    return static_cast<int32_t>((slice.prompt.size() - 1) / kPageTokens);
  }
  if (!slice.wants_token) return -1;
  const int64_t end =
      int64_t{slice.first_position} + static_cast<int64_t>(slice.tokens.size());
  return static_cast<int32_t>((end - 1) / kPageTokens);
}

}  // namespace

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
          windows_.insert(window, {tokens, 0, LayoutBuilder(shape_.kv_heads),
                                   LayoutBuilder(shape_.kv_heads)});
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
  rules_.clear();
  selections_.clear();
  samples_.clear();
  for (Window& window : windows_) {
    window.builder.Clear();
    window.sampled.Clear();
  }

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
      AddSamples(i, slice);
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
  const PatternSelection selection = SelectionOf(planned.pattern);
  if (selection.rule.has_value()) rules_.push_back(*selection.rule);
  for (int32_t position = begin; position < end;) {
    const int32_t block = position / kBlockTokens;
    QueryTile tile;
    tile.slice = index;
    tile.first_row = first_rows_[index] + (position - begin);
    tile.rows = std::min(end, (block + 1) * kBlockTokens) - position;
    tile.first_position = position;
    selections_.push_back(SelectionOfTile(*planned.slice, selection, tile));
    for (Window& window : windows_) {
      AddList(planned, tile, window, blocks_[index]);
    }
    position += tile.rows;
  }
}

void AttentionPlan::AddSamples(int32_t index, const StepSlice& slice) {
  const int64_t width = int64_t{shape_.layers} * shape_.heads;
  float* recall = slice.recall.data();
  for (const int32_t row : slice.recall_rows) {
    QueryTile tile;
    tile.slice = index;
    tile.first_row = first_rows_[index] + row;
    tile.rows = 1;
    tile.first_position = slice.first_position + row;
    samples_.push_back({tile.first_row, recall});
    recall += width;
    for (Window& window : windows_) {
      window.sampled.AddTile(tile);
      const int32_t list =
          window.sampled.AddList({{0, QueryBlock(tile, kPageTokens) + 1}},
                                 {.window_tokens = window.tokens});
      for (int32_t head = 0; head < shape_.kv_heads; ++head) {
        window.sampled.Assign(head, list);
      }
    }
  }
}

void AttentionPlan::AddList(const PlannedSlice& planned, const QueryTile& tile,
                            Window& window, AttentionBlocks& blocks) {
  const int32_t block_tokens = window.builder.layout().block_tokens;
  window.builder.AddTile(tile);
  const TilePlace place = {
      .phase = planned.slice->phase,
      .query_block = QueryBlock(tile, block_tokens),
      .last_prompt_block = LastPromptBlock(*planned.slice)};
  const int32_t list = window.builder.AddListOf(
      StaticKeys(planned.pattern, place).Within(window.tokens));
  for (int32_t head = 0; head < shape_.kv_heads; ++head) {
    window.builder.Assign(head, list);
  }
  const int64_t passes = int64_t{window.layers} * shape_.kv_heads;
  const int64_t selecting = int64_t{SelectingLayers(window)} * shape_.kv_heads;
  blocks.computed += window.builder.ListBlocks(list) * (passes - selecting);
  blocks.allowed += (QueryBlock(tile, block_tokens) + 1) * passes;
}

TileSelection AttentionPlan::SelectionOfTile(const StepSlice& slice,
                                             const PatternSelection& selection,
                                             const QueryTile& tile) const {
  if (!selection.rule.has_value() || slice.phase != Phase::kPrefill) return {};
  // Rules keep the first block and the tile's own, so up to two there is
  // nothing to choose.
  if (QueryBlock(tile, kPageTokens) < 2) return {};
  const bool ends_prompt =
      slice.wants_token &&
      tile.first_row + tile.rows ==
          first_rows_[tile.slice] + static_cast<int32_t>(slice.tokens.size());
  if (ends_prompt && selection.is_last_block_dense) return {};
  return {.rule = static_cast<int32_t>(rules_.size()) - 1,
          .first_layer = selection.first_layer};
}

int32_t AttentionPlan::SelectingLayers(const Window& window) const {
  if (window.tokens != 0) return 0;
  int32_t layers = 0;
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    if (&windows_[window_of_[layer]] == &window &&
        selections_.back().IsUsedIn(layer)) {
      ++layers;
    }
  }
  return layers;
}

bool AttentionPlan::Selects(int32_t layer) const {
  return windows_[window_of_[layer]].tokens == 0 &&
         std::any_of(selections_.begin(), selections_.end(),
                     [layer](const TileSelection& selection) {
                       return selection.IsUsedIn(layer);
                     });
}

void AttentionPlan::CountSelected(int32_t layer, const BlockLayout& selected) {
  SPARSESERVE_DCHECK(selected.Validate().ok());
  SPARSESERVE_CHECK(selected.tiles.size() == selections_.size());
  for (size_t t = 0; t < selections_.size(); ++t) {
    if (!selections_[t].IsUsedIn(layer)) continue;
    AttentionBlocks& blocks = blocks_[selected.tiles[t].slice];
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      blocks.computed +=
          selected.ListBlocks(selected.list_of[t * shape_.kv_heads + head]);
    }
  }
}

}  // namespace sparseserve
