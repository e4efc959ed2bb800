#include "engine/layout/layout_builder.h"

#include <algorithm>
#include <numeric>

#include "engine/base/check.h"
#include "engine/layout/predicate_blocks.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

// The blocks added since the list before become one; returns its id.
int32_t EndList(BlockLayout& layout, int32_t predicate) {
  layout.predicate_of.push_back(predicate);
  layout.full_offsets.push_back(layout.full_blocks.size());
  layout.partial_offsets.push_back(layout.partial_blocks.size());
  return static_cast<int32_t>(layout.lists()) - 1;
}

void Append(absl::Span<const BlockRange> ranges, std::vector<int32_t>& blocks) {
  int64_t count = 0;
  for (const BlockRange& range : ranges) count += range.end - range.begin;
  const size_t size = blocks.size();
  blocks.resize(size + count);
  int32_t* to = blocks.data() + size;
  for (const BlockRange& range : ranges) {
    const int32_t length = range.end - range.begin;
    if (length == 1) {
      *to = range.begin;
    } else {
      std::iota(to, to + length, range.begin);
    }
    to += length;
  }
}

void Append(int32_t begin, int32_t end, std::vector<int32_t>& blocks) {
  if (begin < end) Append({{begin, end}}, blocks);
}

// What is in both, each ascending and without overlap.
void Intersect(absl::Span<const BlockRange> a, absl::Span<const BlockRange> b,
               std::vector<BlockRange>& common) {
  common.clear();
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const BlockRange range = {std::max(a[i].begin, b[j].begin),
                              std::min(a[i].end, b[j].end)};
    if (range.begin < range.end) common.push_back(range);
    a[i].end < b[j].end ? ++i : ++j;
  }
}

}  // namespace

LayoutBuilder::LayoutBuilder(int32_t kv_heads) {
  SPARSESERVE_CHECK(kv_heads >= 1);
  layout_.block_tokens = kPageTokens;
  layout_.kv_heads = kv_heads;
}

void LayoutBuilder::Clear() {
  layout_.tiles.clear();
  layout_.list_of.clear();
  layout_.skip_below.clear();
  layout_.full_offsets.resize(1);
  layout_.full_blocks.clear();
  layout_.partial_offsets.resize(1);
  layout_.partial_blocks.clear();
  layout_.predicates.clear();
  layout_.predicate_of.clear();
}

void LayoutBuilder::AddTile(const QueryTile& tile) {
  const int32_t last_position = tile.first_position + tile.rows - 1;
  SPARSESERVE_CHECK(tile.rows >= 1 && tile.first_position >= 0);
  SPARSESERVE_CHECK(tile.first_position / layout_.block_tokens ==
                    last_position / layout_.block_tokens);
  layout_.tiles.push_back(tile);
  layout_.list_of.resize(layout_.list_of.size() + layout_.kv_heads, -1);
  if (!layout_.skip_below.empty()) {
    layout_.skip_below.resize(layout_.list_of.size(), kNoSkip);
  }
}

int32_t LayoutBuilder::AddListOf(const KeyPredicate& predicate) {
  SPARSESERVE_CHECK(!layout_.tiles.empty());
  const QueryTile& tile = layout_.tiles.back();
  SeenBlocks(predicate, tile, seen_);
  return Emit(tile, seen_, predicate);
}

int32_t LayoutBuilder::AddList(absl::Span<const BlockRange> visible,
                               const KeyPredicate& predicate) {
  SPARSESERVE_CHECK(!layout_.tiles.empty());
  return AddList(layout_.tiles.back(), visible, predicate);
}

int32_t LayoutBuilder::AddList(const QueryTile& tile,
                               absl::Span<const BlockRange> visible,
                               const KeyPredicate& predicate) {
  SeenBlocks(predicate, tile, seen_);
  Intersect(visible, seen_, common_);
  SPARSESERVE_CHECK(!common_.empty());
  return Emit(tile, common_, predicate);
}

int32_t LayoutBuilder::Emit(const QueryTile& tile,
                            absl::Span<const BlockRange> seen,
                            const KeyPredicate& predicate) {
  const WholeBlocks whole = BlocksSeenWhole(predicate, tile);
  // Columns and steps are many short ranges before any whole block.
  size_t first = 0;
  if (whole.far.begin == whole.far.end) {
    const auto before = [&](const BlockRange& range) {
      return range.end <= whole.near.begin ||
             whole.near.begin == whole.near.end;
    };
    first =
        std::partition_point(seen.begin(), seen.end(), before) - seen.begin();
    Append(seen.first(first), layout_.partial_blocks);
  }
  for (const BlockRange& range : seen.subspan(first)) {
    int32_t next = range.begin;
    for (const BlockRange& full : {whole.far, whole.near}) {
      const int32_t begin = std::max(next, full.begin);
      const int32_t end = std::min(range.end, full.end);
      if (begin >= end) continue;
      Append(next, begin, layout_.partial_blocks);
      Append(begin, end, layout_.full_blocks);
      next = end;
    }
    Append(next, range.end, layout_.partial_blocks);
  }
  return EndList(layout_, PredicateId(predicate));
}

int32_t LayoutBuilder::PredicateId(const KeyPredicate& predicate) {
  if (predicate.IsCausality()) return -1;
  std::vector<KeyPredicate>& known = layout_.predicates;
  // Neighbouring lists mostly have the same.
  const auto found = std::find(known.rbegin(), known.rend(), predicate);
  if (found != known.rend()) {
    return static_cast<int32_t>(known.rend() - found) - 1;
  }
  known.push_back(predicate);
  return static_cast<int32_t>(known.size()) - 1;
}

void LayoutBuilder::CopyFrom(const BlockLayout& layout) { layout_ = layout; }

void LayoutBuilder::ReturnTo(const BlockLayout& layout) {
  SPARSESERVE_CHECK(layout_.tiles.size() == layout.tiles.size() &&
                    layout_.lists() >= layout.lists());
  layout_.list_of = layout.list_of;
  layout_.full_offsets.resize(layout.full_offsets.size());
  layout_.full_blocks.resize(layout.full_blocks.size());
  layout_.partial_offsets.resize(layout.partial_offsets.size());
  layout_.partial_blocks.resize(layout.partial_blocks.size());
  layout_.predicates.resize(layout.predicates.size());
  layout_.predicate_of.resize(layout.predicate_of.size());
}

void LayoutBuilder::AssignOwn(int32_t tile, int32_t kv_head,
                              absl::Span<const BlockRange> visible) {
  layout_.list_of[int64_t{tile} * layout_.kv_heads + kv_head] =
      AddList(layout_.tiles[tile], visible, {});
}

void LayoutBuilder::Assign(int32_t kv_head, int32_t list) {
  SPARSESERVE_CHECK(kv_head >= 0 && kv_head < layout_.kv_heads);
  SPARSESERVE_CHECK(list >= 0 && list < layout_.lists());
  layout_.list_of[layout_.list_of.size() - layout_.kv_heads + kv_head] = list;
}

void LayoutBuilder::AllowSkip(int32_t kv_head, float skip_below) {
  SPARSESERVE_CHECK(kv_head >= 0 && kv_head < layout_.kv_heads);
  SPARSESERVE_CHECK(skip_below <= 0);
  layout_.skip_below.resize(layout_.list_of.size(), kNoSkip);
  layout_.skip_below[layout_.list_of.size() - layout_.kv_heads + kv_head] =
      skip_below;
}

int64_t LayoutBuilder::ListBlocks(int32_t list) const {
  return layout_.ListBlocks(list);
}

int32_t QueryBlock(const QueryTile& tile, int32_t block_tokens) {
  return (tile.first_position + tile.rows - 1) / block_tokens;
}

}  // namespace sparseserve
