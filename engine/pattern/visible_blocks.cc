#include "engine/pattern/visible_blocks.h"

#include <algorithm>

namespace sparseserve {
namespace {

struct RangesOf {
  const QueryTile& tile;
  int32_t block_tokens;
  std::vector<BlockRange>& ranges;

  void operator()(const DensePattern&) const { AddFrom(0); }
  // What it may choose from.
  void operator()(const XAttentionPattern&) const { AddFrom(0); }
  void operator()(const SlidingWindowPattern& pattern) const {
    // The first row's window reaches back the furthest.
    AddFrom(std::max(tile.first_position - pattern.window_tokens + 1, 0));
  }

  void AddFrom(int32_t position) const {
    ranges.push_back(
        {position / block_tokens, QueryBlock(tile, block_tokens) + 1});
  }
};

struct WindowOf {
  int32_t operator()(const DensePattern&) const { return 0; }
  int32_t operator()(const XAttentionPattern&) const { return 0; }
  int32_t operator()(const SlidingWindowPattern& pattern) const {
    return pattern.window_tokens;
  }
};

}  // namespace

void VisibleBlocks(const PatternSpec& pattern, const QueryTile& tile,
                   int32_t block_tokens, std::vector<BlockRange>& ranges) {
  ranges.clear();
  std::visit(RangesOf{tile, block_tokens, ranges}, pattern);
}

int32_t WindowTokens(const PatternSpec& pattern) {
  return std::visit(WindowOf(), pattern);
}

int32_t NarrowerWindow(int32_t a, int32_t b) {
  if (a == 0 || b == 0) return std::max(a, b);
  return std::min(a, b);
}

}  // namespace sparseserve
