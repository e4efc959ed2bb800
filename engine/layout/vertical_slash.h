#pragma once

#include <cstdint>
#include <vector>

#include "engine/layout/attention_sums.h"
#include "engine/layout/block_choice.h"
#include "engine/layout/block_layout.h"
#include "engine/layout/selection_rule.h"

namespace sparseserve {

// The keys and distances that a KV head's tiles visit by a VerticalSlashRule.
// Chosen once for a slice; keeps its memory. One thread while it chooses, any
// number afterwards.
class VerticalSlash {
 public:
  // Keys and distances that are taken before others.
  static constexpr int32_t kFirstColumns = 30;
  static constexpr int32_t kShortDiagonals = 100;

  // Chooses from the sums of the slice's last rows; everything if they are not
  // finite.
  void Choose(const VerticalSlashRule& rule, const AttentionSums& sums);

  // Forces the blocks up to the tile's own that hold a chosen key or one at a
  // chosen distance. REQUIRES: `choice` has an element for each of them.
  void ForceBlocks(const QueryTile& tile, BlockChoice& choice) const;

 private:
  // [keys]: 1 if chosen; the `first` first elements before others.
  absl::Span<const uint8_t> Best(absl::Span<const float> sums, int32_t first,
                                 int32_t count);

  bool is_everything_ = false;
  BlockChoice best_;
  std::vector<int32_t> column_blocks_;  // that hold a chosen key, ascending
  std::vector<int32_t> diagonals_;      // chosen distances, ascending
};

}  // namespace sparseserve
