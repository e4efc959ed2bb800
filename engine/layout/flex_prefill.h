#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/layout/attention_sums.h"
#include "engine/layout/block_choice.h"
#include "engine/layout/block_layout.h"
#include "engine/layout/selection_rule.h"

namespace sparseserve {

// The blocks that a KV head's tiles visit by a FlexPrefillRule. Chosen once for
// a slice; keeps its memory, which is that of the slice's full lists at most.
// One thread while it chooses, any number afterwards.
class FlexPrefill {
 public:
  // Chooses which way the head goes, and its key and distance blocks, from the
  // sums of the slice's last rows and what pooling estimates of those by key
  // block. Garbage keeps every block. Returns whether the map is asked for.
  bool Choose(const FlexPrefillRule& rule, const AttentionSums& sums,
              absl::Span<const float> pooled_last);

  // The map, tile by tile in the order of the slice: the pooled scores of the
  // blocks up to each tile's own. REQUIRES: Choose() asked for it.
  void AddMapRow(absl::Span<const float> scores);
  void ChooseFromMap(const FlexPrefillRule& rule);

  // Forces the blocks of tile number `index` of the slice.
  // REQUIRES: `choice` has an element for each block up to the tile's own.
  void ForceBlocks(const QueryTile& tile, int32_t index,
                   BlockChoice& choice) const;

  bool is_query_aware() const { return is_query_aware_; }

 private:
  // Replaces `best` with the blocks of `sums` that are kept.
  void ChooseBlocks(const FlexPrefillRule& rule, absl::Span<const float> sums,
                    std::vector<int32_t>& best);

  bool is_everything_ = false;
  bool is_query_aware_ = false;
  BlockChoice choice_;
  std::vector<float> block_sums_;
  std::vector<int32_t> key_blocks_;       // ascending
  std::vector<int32_t> distance_blocks_;  // ascending
  std::vector<float> map_;                // of all tiles
  std::vector<int64_t> map_offsets_;      // [tiles + 1]
  BlockChoice map_choice_;
};

}  // namespace sparseserve
