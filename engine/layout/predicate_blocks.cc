#include "engine/layout/predicate_blocks.h"

#include <algorithm>
#include <limits>

#include "engine/step.h"

namespace sparseserve {
namespace {

constexpr int32_t kBlockTokens = kPageTokens;

// Positions of a tile's rows, and how far they may look back at most.
struct RowSpan {
  int64_t first;
  int64_t last;
  int64_t window;  // more than any position if there is none

  int64_t rows() const { return last - first + 1; }
  // The first key that the predicate's window shows to some row.
  int64_t begin() const { return std::max<int64_t>(first - window + 1, 0); }
  // Likewise to every row.
  int64_t whole_begin() const {
    return std::max<int64_t>(last - window + 1, 0);
  }
};

RowSpan SpanOf(const KeyPredicate& predicate, const QueryTile& tile) {
  return {.first = tile.first_position,
          .last = int64_t{tile.first_position} + tile.rows - 1,
          .window = predicate.window_tokens > 0
                        ? predicate.window_tokens
                        : std::numeric_limits<int32_t>::max()};
}

// Adds the blocks of key intervals that come in ascending order.
class BlocksOfKeys {
 public:
  explicit BlocksOfKeys(std::vector<BlockRange>& ranges) : ranges_(ranges) {}

  // Keys [begin, end), if there are any. REQUIRES: begin >= 0.
  void Add(int64_t begin, int64_t end) {
    if (begin >= end) return;
    const BlockRange range = BlocksOf(begin, end);
    if (!ranges_.empty() && range.begin <= ranges_.back().end) {
      ranges_.back().end = std::max(ranges_.back().end, range.end);
    } else {
      ranges_.push_back(range);
    }
  }

  // Keys [begin + k * step, end + k * step) for k < count.
  // REQUIRES: begin >= 0; kBlockTokens or more keys lie between neighbours, and
  // between what was added before and the first, so that no block is in two.
  void AddRepeated(int64_t begin, int64_t end, int64_t step, int64_t count) {
    if (count <= 0) return;
    const size_t size = ranges_.size();
    ranges_.resize(size + count);
    for (size_t i = size; i < ranges_.size(); ++i) {
      ranges_[i] = BlocksOf(begin, end);
      begin += step;
      end += step;
    }
  }

 private:
  static BlockRange BlocksOf(int64_t begin, int64_t end) {
    const auto first = static_cast<uint64_t>(begin) / kBlockTokens;
    const auto last = static_cast<uint64_t>(end - 1) / kBlockTokens;
    return {static_cast<int32_t>(first), static_cast<int32_t>(last + 1)};
  }

  std::vector<BlockRange>& ranges_;
};

struct SeenByRule {
  const RowSpan& rows;
  BlocksOfKeys blocks;

  void operator()(const AllKeys&) { AddFrom(0); }
  void operator()(const SinkWindowKeys& rule) {
    blocks.Add(rows.begin(),
               std::min<int64_t>(rule.sink_tokens, rows.last + 1));
    AddFrom(rows.first - rule.window_tokens + 1);
  }
  void operator()(const StridedKeys& rule) {
    AddSteps(rule.stride, std::numeric_limits<int32_t>::max());
    AddFrom(rows.first - rule.stride + 1);
  }
  void operator()(const ColumnKeys& rule) {
    if (rule.sees_period) {
      const int64_t near = rows.first / rule.period * rule.period;
      AddColumns(rule, near);
      AddFrom(near);
    } else {
      AddColumns(rule, rows.last + 1);
      AddFrom(rows.first);
    }
  }
  void operator()(const DilatedKeys& rule) {
    AddSteps(rule.dilation, rule.keys - 1);
    AddFrom(rows.first);
  }
  void operator()(const ChunkKeys& rule) {
    AddFrom(rows.first / rule.chunk_tokens * rule.chunk_tokens);
  }
  void operator()(const NoKeys&) {}

  // The first row sees the keys from here to its own, and every later row its
  // own too.
  void AddFrom(int64_t begin) {
    blocks.Add(std::max(begin, rows.begin()), rows.last + 1);
  }

  // Keys at a multiple of `step` before a row, `most` multiples at most.
  void AddSteps(int64_t step, int64_t most) {
    most = std::min({most, rows.last / step, (rows.window - 1) / step});
    if (most == 0) return;
    // The intervals of neighbouring multiples leave no whole block between.
    if (step - rows.rows() < kBlockTokens) {
      return blocks.Add(std::max<int64_t>(rows.first - most * step, 0),
                        rows.last + 1);
    }
    // The furthest may begin before the first key.
    const int64_t begin = rows.first - most * step;
    blocks.Add(std::max<int64_t>(begin, 0), rows.last - most * step + 1);
    blocks.AddRepeated(begin + step, begin + step + rows.rows(), step,
                       most - 1);
  }

  // The columns before `end`.
  void AddColumns(const ColumnKeys& rule, int64_t end) {
    const int64_t period = rule.period;
    int64_t begin = rows.begin() / period * period + rule.first_column;
    // Neighbouring columns leave no whole block between.
    if (period - rule.columns < kBlockTokens) {
      if (begin + rule.columns <= rows.begin()) begin += period;
      return blocks.Add(std::max(begin, rows.begin()),
                        LastColumnEnd(rule, end));
    }
    if (begin >= end) return;
    // A window may cut the first, and the tile the last.
    blocks.Add(std::max(begin, rows.begin()),
               std::min(begin + rule.columns, end));
    const int64_t more = (end - 1 - begin) / period;
    blocks.AddRepeated(begin + period, begin + period + rule.columns, period,
                       more - 1);
    if (more > 0) {
      begin += more * period;
      blocks.Add(begin, std::min(begin + rule.columns, end));
    }
  }

  // Where the columns before `end` end.
  static int64_t LastColumnEnd(const ColumnKeys& rule, int64_t end) {
    int64_t begin = (end - 1) / rule.period * rule.period + rule.first_column;
    if (begin >= end) begin -= rule.period;
    return std::min(begin + rule.columns, end);
  }
};

// Keys that every row sees: [0, sink_end) and [near_begin, the first row's].
struct WholeKeys {
  int64_t sink_end = 0;
  int64_t near_begin = std::numeric_limits<int64_t>::max();
};

struct WholeByRule {
  const RowSpan& rows;

  WholeKeys operator()(const AllKeys&) const { return {.near_begin = 0}; }
  WholeKeys operator()(const SinkWindowKeys& rule) const {
    return {rule.sink_tokens, rows.last - rule.window_tokens + 1};
  }
  WholeKeys operator()(const StridedKeys& rule) const {
    if (rule.stride == 1) return {.near_begin = 0};
    return {.near_begin = rows.last - rule.stride + 1};
  }
  WholeKeys operator()(const ColumnKeys& rule) const {
    if (rule.columns == rule.period) return {.near_begin = 0};
    return rule.sees_period ? Period(rule.period) : WholeKeys();
  }
  WholeKeys operator()(const DilatedKeys& rule) const {
    if (rule.dilation > 1) return {};
    return {.near_begin = rows.last - rule.keys + 1};
  }
  WholeKeys operator()(const ChunkKeys& rule) const {
    return Period(rule.chunk_tokens);
  }
  WholeKeys operator()(const NoKeys&) const { return {}; }

  // What rows of one period share; rows of several share nothing.
  WholeKeys Period(int64_t period) const {
    return {.near_begin = rows.last / period * period};
  }
};

// Whole blocks within keys [begin, end).
BlockRange BlocksWithin(int64_t begin, int64_t end) {
  const int64_t first = (begin + kBlockTokens - 1) / kBlockTokens;
  const int64_t stop = end / kBlockTokens;
  if (first >= stop) return {};
  return {static_cast<int32_t>(first), static_cast<int32_t>(stop)};
}

}  // namespace

void SeenBlocks(const KeyPredicate& predicate, const QueryTile& tile,
                std::vector<BlockRange>& ranges) {
  ranges.clear();
  const RowSpan rows = SpanOf(predicate, tile);
  std::visit(SeenByRule{rows, BlocksOfKeys(ranges)}, predicate.rule);
}

WholeBlocks BlocksSeenWhole(const KeyPredicate& predicate,
                            const QueryTile& tile) {
  const RowSpan rows = SpanOf(predicate, tile);
  const WholeKeys keys = std::visit(WholeByRule{rows}, predicate.rule);
  // The tile's own block is masked by causality.
  const int64_t end = rows.first / kBlockTokens * kBlockTokens;
  const int64_t near = std::max(keys.near_begin, rows.whole_begin());
  if (keys.sink_end >= near)
    return {.near = BlocksWithin(rows.whole_begin(), end)};
  return {.far = BlocksWithin(rows.whole_begin(), std::min(keys.sink_end, end)),
          .near = BlocksWithin(std::min(near, end), end)};
}

}  // namespace sparseserve
