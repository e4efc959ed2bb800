#include "engine/pattern/visible_blocks.h"

namespace sparseserve {
namespace {

struct RangesOf {
  int32_t query_block;
  std::vector<BlockRange>& ranges;

  void operator()(const DensePattern&) const {
    ranges.push_back({0, query_block + 1});
  }
};

}  // namespace

void VisibleBlocks(const PatternSpec& pattern, int32_t query_block,
                   std::vector<BlockRange>& ranges) {
  ranges.clear();
  std::visit(RangesOf{query_block, ranges}, pattern);
}

}  // namespace sparseserve
