#include "engine/attention/attention_profiler.h"

#include <algorithm>
#include <cmath>

#include "engine/profile/attention_profile.h"

namespace sparseserve {
namespace {

// A share below which a row has lost most of what it attends to.
constexpr float kLowRecall = 0.5f;

// The part of the slice at positions [begin, end).
QueryTile PartOf(const AttentionPlan::Profiled& slice, int32_t begin,
                 int32_t end) {
  return {.slice = slice.slice,
          .first_row = slice.first_row + begin - slice.first_position,
          .rows = end - begin,
          .first_position = begin};
}

void CountVisited(int32_t layer, const BlockLayout& layout,
                  const AttentionPlan::Profiled& slice) {
  for (size_t t = 0; t < layout.tiles.size(); ++t) {
    const QueryTile& tile = layout.tiles[t];
    if (tile.slice != slice.slice) continue;
    for (int32_t head = 0; head < layout.kv_heads; ++head) {
      AttentionBlocks& visited = slice.profile->visited(layer, head);
      visited.computed +=
          layout.ListBlocks(layout.list_of[t * layout.kv_heads + head]);
      visited.allowed += QueryBlock(tile, kPageTokens) + 1;
    }
  }
}

// `lse` of the rows' pattern, `dense_lse` of all that they could see.
void AddRecall(const QueryTile& tile, int32_t heads, const float* lse,
               const float* dense_lse, WeightSums* sums) {
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t first = int64_t{tile.first_row + r} * heads;
    for (int32_t head = 0; head < heads; ++head) {
      const float kept =
          std::min(std::exp(lse[first + head] - dense_lse[first + head]), 1.0f);
      sums[head].recall += kept;
      if (kept < kLowRecall) ++sums[head].low_recall_rows;
    }
  }
}

}  // namespace

void AttentionProfiler::Measure(int32_t layer, const AttentionPlan& plan,
                                const AttentionArgs& attention,
                                AttentionArgs dense) {
  tiles_.clear();
  dense_.Clear();
  const int32_t window_tokens = plan.window_tokens(layer);
  bool is_dense = true;
  for (const AttentionPlan::Profiled& slice : plan.profiled()) {
    CountVisited(layer, *attention.layout, slice);
    AddTiles(layer, slice);
    is_dense = is_dense && slice.is_dense;
  }
  if (tiles_.empty()) return;
  const float* dense_lse = attention.lse;
  if (!is_dense) {
    for (const ProfileTile& tile : tiles_) {
      if (tile.sums != nullptr || !IsSampled(tile.tile)) {
        AddDenseTile(tile.tile, window_tokens);
      }
    }
    dense.layout = &dense_.layout();
    backend_.Attention(dense);
    dense_lse = dense.lse;
  }
  for (const ProfileTile& tile : tiles_) {
    if (tile.sums == nullptr) continue;
    AddRecall(tile.tile, attention.heads, attention.lse, dense_lse, tile.sums);
  }
  backend_.Profile({.queries = attention.queries,
                    .heads = attention.heads,
                    .kv = attention.kv,
                    .pages = attention.pages,
                    .scale = attention.scale,
                    .softcap = attention.softcap,
                    .window_tokens = window_tokens,
                    .lse = dense_lse,
                    .tiles = tiles_});
}

void AttentionProfiler::AddTiles(int32_t layer,
                                 const AttentionPlan::Profiled& slice) {
  AttentionProfile& profile = *slice.profile;
  const int32_t end = slice.first_position + slice.rows;
  for (const int32_t block : profile.blocks()) {
    const int32_t first = block * kPageTokens;
    if (first < slice.first_position || first >= end) continue;
    tiles_.push_back(
        {.tile = PartOf(slice, first, std::min(first + kPageTokens, end)),
         .sums = profile.layer_sums(layer).data()});
  }
  for (size_t i = 0; i < profile.queries().size(); ++i) {
    const int32_t query = profile.queries()[i];
    if (query < slice.first_position || query >= end) continue;
    tiles_.push_back(
        {.tile = PartOf(slice, query, query + 1),
         .heaviest = profile.attended(static_cast<int32_t>(i), layer)});
  }
}

bool AttentionProfiler::IsSampled(const QueryTile& query) const {
  return std::any_of(
      tiles_.begin(), tiles_.end(), [&query](const ProfileTile& other) {
        const int32_t row = query.first_row - other.tile.first_row;
        return other.sums != nullptr && row >= 0 && row < other.tile.rows;
      });
}

void AttentionProfiler::AddDenseTile(const QueryTile& tile,
                                     int32_t window_tokens) {
  dense_.AddTile(tile);
  const int32_t list = dense_.AddList({{0, QueryBlock(tile, kPageTokens) + 1}},
                                      {.window_tokens = window_tokens});
  for (int32_t head = 0; head < dense_.layout().kv_heads; ++head) {
    dense_.Assign(head, list);
  }
}

}  // namespace sparseserve
