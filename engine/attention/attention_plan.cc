#include "engine/attention/attention_plan.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/pattern/visible_blocks.h"

namespace sparseserve {

AttentionPlan::AttentionPlan(const Shape& shape)
    : shape_(shape), builder_(shape.kv_heads) {}

void AttentionPlan::Build(absl::Span<const PlannedSlice> slices) {
  groups_ = RowGroups();
  first_rows_.assign(slices.size(), 0);
  tokens_.clear();
  positions_.clear();
  kv_slots_.clear();
  pages_.assign(slices.size(), {});
  blocks_.assign(slices.size(), {});
  builder_.Clear();

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
  SPARSESERVE_DCHECK(layout().Validate().ok());
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
  const int32_t block_tokens = builder_.layout().block_tokens;
  const int32_t begin = planned.slice->first_position;
  const int32_t end =
      begin + static_cast<int32_t>(planned.slice->tokens.size());
  AttentionBlocks& blocks = blocks_[index];
  for (int32_t position = begin; position < end;) {
    const int32_t block = position / block_tokens;
    QueryTile tile;
    tile.slice = index;
    tile.first_row = first_rows_[index] + (position - begin);
    tile.rows = std::min(end, (block + 1) * block_tokens) - position;
    tile.first_position = position;
    builder_.AddTile(tile);

    // The pattern is the same for every KV head, so one list serves them all.
    VisibleBlocks(planned.pattern, block, ranges_);
    const int32_t list = builder_.AddList(ranges_);
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      builder_.Assign(head, list);
    }
    const int64_t passes = int64_t{shape_.layers} * shape_.kv_heads;
    blocks.computed += builder_.ListBlocks(list) * passes;
    blocks.allowed += (block + 1) * passes;
    position += tile.rows;
  }
}

}  // namespace sparseserve
