#include "engine/layout/vertical_slash.h"

#include <algorithm>

#include "engine/step.h"

namespace sparseserve {

absl::Span<const uint8_t> VerticalSlash::Best(absl::Span<const float> sums,
                                              int32_t first, int32_t count) {
  const int32_t size = static_cast<int32_t>(sums.size());
  best_.Begin(size);
  for (int32_t i = 0; i < std::min({first, count, size}); ++i) best_.Force(i);
  best_.TakeBest(sums, count);
  return best_.chosen();
}

void VerticalSlash::Choose(const VerticalSlashRule& rule,
                           const AttentionSums& sums) {
  column_blocks_.clear();
  diagonals_.clear();
  is_everything_ = !AreFinite(sums.columns) || !AreFinite(sums.diagonals);
  if (is_everything_) return;
  const absl::Span<const uint8_t> columns =
      Best(sums.columns, kFirstColumns, rule.columns);
  for (int32_t key = 0; key < static_cast<int32_t>(columns.size()); ++key) {
    const int32_t block = key / kPageTokens;
    if (columns[key] != 0 &&
        (column_blocks_.empty() || column_blocks_.back() != block)) {
      column_blocks_.push_back(block);
    }
  }
  const absl::Span<const uint8_t> diagonals =
      Best(sums.diagonals, kShortDiagonals, rule.diagonals);
  for (int32_t i = 0; i < static_cast<int32_t>(diagonals.size()); ++i) {
    if (diagonals[i] != 0) diagonals_.push_back(i);
  }
}

void VerticalSlash::ForceBlocks(const QueryTile& tile,
                                BlockChoice& choice) const {
  const int32_t last = tile.first_position + tile.rows - 1;
  if (is_everything_) {
    for (int32_t b = 0; b <= last / kPageTokens; ++b) choice.Force(b);
    return;
  }
  for (const int32_t block : column_blocks_) {
    if (block > last / kPageTokens) break;
    choice.Force(block);
  }
  for (const int32_t distance : diagonals_) {
    if (distance > last) break;
    choice.Force((last - distance) / kPageTokens);
    choice.Force(std::max(tile.first_position - distance, 0) / kPageTokens);
  }
}

}  // namespace sparseserve
