#include "engine/backend/cpu/block_selection.h"

#include <algorithm>
#include <numeric>
#include <variant>

#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

const HeadSelection& SelectionOf(const SelectArgs& args, size_t tile,
                                 int32_t kv_head) {
  return args.selections[tile * args.base->kv_heads + kv_head];
}

}  // namespace

BlockSelection::BlockSelection(SimdLevel simd, ThreadPool& pool)
    : kernels_(SelectionKernelsFor(simd)), pool_(pool) {
  for (int worker = 0; worker < pool.threads(); ++worker) {
    scratch_.push_back(std::make_unique<Scratch>());
  }
}

void BlockSelection::Run(const SelectArgs& args) {
  const BlockLayout& base = *args.base;
  SPARSESERVE_CHECK(base.block_tokens == kPageTokens);
  SPARSESERVE_CHECK(base.kv_heads == args.kv.kv_heads);
  SPARSESERVE_CHECK(args.selections.size() == base.list_of.size());
  SPARSESERVE_CHECK(args.heads % args.kv.kv_heads == 0);
  items_.clear();
  for (int32_t t = 0; t < static_cast<int32_t>(base.tiles.size()); ++t) {
    for (int32_t head = 0; head < base.kv_heads; ++head) {
      if (SelectionOf(args, t, head).IsUsedIn(args.layer)) {
        items_.push_back({t, head});
      }
    }
  }
  if (ranges_.size() < items_.size()) ranges_.resize(items_.size());
  const auto cost = [&](size_t item) {
    const QueryTile& tile = base.tiles[items_[item].tile];
    return int64_t{tile.rows} * (QueryBlock(tile, kPageTokens) + 1);
  };
  order_.resize(items_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::sort(order_.begin(), order_.end(),
            [&](size_t a, size_t b) { return cost(a) > cost(b); });
  pool_.ParallelFor(static_cast<int64_t>(items_.size()), 1,
                    [&](int64_t begin, int64_t end, int worker) {
                      for (int64_t i = begin; i < end; ++i) {
                        const size_t item = order_[i];
                        Choose(args, items_[item], *scratch_[worker],
                               ranges_[item]);
                      }
                    });
  Assemble(args);
}

void BlockSelection::Choose(const SelectArgs& args, const Item& item,
                            Scratch& scratch,
                            std::vector<BlockRange>& ranges) const {
  const QueryTile& tile = args.base->tiles[item.tile];
  const auto& rule = std::get<AntidiagonalRule>(
      args.rules[SelectionOf(args, item.tile, item.kv_head).rule]);
  AntidiagonalScores(kernels_, args, tile, item.kv_head, rule.stride,
                     scratch.antidiagonal, scratch.scores);
  const int64_t blocks = static_cast<int64_t>(scratch.scores.size());
  scratch.choice.Begin(blocks);
  scratch.choice.Force(0);
  scratch.choice.Force(blocks - 1);
  scratch.choice.TakeMass(scratch.scores, rule.mass, Crossing::kIncluded);
  scratch.choice.GetRanges(ranges);
}

void BlockSelection::Assemble(const SelectArgs& args) const {
  const BlockLayout& base = *args.base;
  LayoutBuilder& selected = *args.selected;
  selected.Clear();
  size_t item = 0;
  for (size_t t = 0; t < base.tiles.size(); ++t) {
    selected.AddTile(base.tiles[t]);
    int32_t copied = -1;  // the base's list that `copy` is of
    int32_t copy = 0;
    for (int32_t head = 0; head < base.kv_heads; ++head) {
      if (SelectionOf(args, t, head).IsUsedIn(args.layer)) {
        selected.Assign(head, selected.AddList(ranges_[item++]));
        continue;
      }
      const int32_t list = base.list_of[t * base.kv_heads + head];
      if (list != copied) copy = selected.AddCopy(base, list);
      copied = list;
      selected.Assign(head, copy);
    }
  }
}

}  // namespace sparseserve::cpu
