#include "engine/backend/cpu/block_selection.h"

#include <algorithm>
#include <numeric>

#include "absl/types/span.h"
#include "engine/base/check.h"

namespace sparseserve::cpu {
namespace {

const HeadSelection& SelectionOf(const SelectArgs& args, size_t tile,
                                 int32_t kv_head) {
  return args.selections[tile * args.base->kv_heads + kv_head];
}

// Empty: the head chooses.
absl::Span<const BlockRange> KeptOf(const SelectArgs& args, size_t tile,
                                    int32_t kv_head) {
  if (args.kept.empty()) return {};
  return args.kept[tile * args.base->kv_heads + kv_head];
}

}  // namespace

BlockSelection::BlockSelection(const SelectionKernels& kernels,
                               ThreadPool& pool)
    : kernels_(kernels), pool_(pool) {
  for (int worker = 0; worker < pool.threads(); ++worker) {
    scratch_.push_back(std::make_unique<SelectionScratch>());
  }
}

void BlockSelection::Run(const SelectArgs& args) {
  const BlockLayout& base = *args.base;
  SPARSESERVE_CHECK(base.block_tokens == kPageTokens);
  SPARSESERVE_CHECK(base.kv_heads == args.kv.kv_heads);
  SPARSESERVE_CHECK(args.selections.size() == base.list_of.size());
  SPARSESERVE_CHECK(args.kept.empty() ||
                    args.kept.size() == base.list_of.size());
  SPARSESERVE_CHECK(args.heads % args.kv.kv_heads == 0);
  FindItems(args);
  Prepare(args);
  Choose(args);
  Assemble(args);
}

void BlockSelection::FindItems(const SelectArgs& args) {
  const std::vector<QueryTile>& tiles = args.base->tiles;
  const int32_t count = static_cast<int32_t>(tiles.size());
  pairs_.clear();
  preparing_.clear();
  items_.clear();
  for (int32_t first = 0; first < count;) {
    int32_t end = first + 1;
    while (end < count && tiles[end].slice == tiles[first].slice) ++end;
    pair_of_.assign(args.base->kv_heads, -1);
    for (int32_t t = first; t < end; ++t) {
      for (int32_t head = 0; head < args.base->kv_heads; ++head) {
        const HeadSelection& selection = SelectionOf(args, t, head);
        if (!selection.IsUsedIn(args.layer)) continue;
        if (!KeptOf(args, t, head).empty()) continue;
        if (pair_of_[head] < 0) {
          pair_of_[head] = static_cast<int32_t>(pairs_.size());
          pairs_.push_back({first, end - first, head, selection.rule});
          if (SliceHead::Prepares(args.rules[selection.rule])) {
            preparing_.push_back(pair_of_[head]);
          }
        }
        SPARSESERVE_CHECK(pairs_[pair_of_[head]].rule == selection.rule);
        items_.push_back({t, pair_of_[head]});
      }
    }
    first = end;
  }
  while (heads_.size() < pairs_.size()) {
    heads_.push_back(std::make_unique<SliceHead>());
  }
  if (ranges_.size() < items_.size()) ranges_.resize(items_.size());
}

void BlockSelection::Prepare(const SelectArgs& args) {
  if (preparing_.empty()) return;  // wakes nobody
  pool_.ParallelFor(static_cast<int64_t>(preparing_.size()), 1,
                    [&](int64_t begin, int64_t end, int worker) {
                      for (int64_t i = begin; i < end; ++i) {
                        const Pair& pair = pairs_[preparing_[i]];
                        heads_[preparing_[i]]->Prepare(
                            kernels_, args,
                            absl::MakeConstSpan(args.base->tiles)
                                .subspan(pair.first_tile, pair.tiles),
                            pair.kv_head, args.rules[pair.rule],
                            *scratch_[worker]);
                      }
                    });
}

void BlockSelection::Choose(const SelectArgs& args) {
  const std::vector<QueryTile>& tiles = args.base->tiles;
  const auto cost = [&](size_t item) {
    const QueryTile& tile = tiles[items_[item].tile];
    return int64_t{tile.rows} * (QueryBlock(tile, kPageTokens) + 1);
  };
  order_.resize(items_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::sort(order_.begin(), order_.end(),
            [&](size_t a, size_t b) { return cost(a) > cost(b); });
  pool_.ParallelFor(static_cast<int64_t>(items_.size()), 1,
                    [&](int64_t begin, int64_t end, int worker) {
                      SelectionScratch& scratch = *scratch_[worker];
                      for (int64_t i = begin; i < end; ++i) {
                        const Item& item = items_[order_[i]];
                        const Pair& pair = pairs_[item.pair];
                        heads_[item.pair]->Choose(
                            kernels_, args, tiles[item.tile],
                            item.tile - pair.first_tile, pair.kv_head,
                            args.rules[pair.rule], scratch);
                        scratch.choice.GetRanges(ranges_[order_[i]]);
                      }
                    });
}

void BlockSelection::Assemble(const SelectArgs& args) const {
  const BlockLayout& base = *args.base;
  args.selected->ReturnTo(base);
  size_t item = 0;
  for (int32_t t = 0; t < static_cast<int32_t>(base.tiles.size()); ++t) {
    for (int32_t head = 0; head < base.kv_heads; ++head) {
      if (!SelectionOf(args, t, head).IsUsedIn(args.layer)) continue;
      const absl::Span<const BlockRange> kept = KeptOf(args, t, head);
      args.selected->AssignOwn(
          t, head, kept.empty() ? absl::MakeConstSpan(ranges_[item++]) : kept);
    }
  }
}

}  // namespace sparseserve::cpu
