#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/layout/block_layout.h"
#include "engine/layout/selection_rule.h"

namespace sparseserve {

// What output rows of one sequence chose, for rows behind them: one choice for
// each layer and KV head. Owned by whoever runs the sequence, as long as it
// lasts; its slices point to it (StepSlice::kept_blocks). Used by the thread
// that runs steps.
//
// Positions are cut into periods of `reuse_steps`, which divides kPageTokens. A
// row uses the choice that an earlier row of its period made by the same rule;
// without one it chooses. No period crosses a border of pages, so the own
// block, and with it the first and the latest blocks, are those of the choice,
// and its list fits as it is. What a row visits follows from the sequence's
// tokens and from the position of that choice alone: its period's first, or the
// first that the sequence ran of the period since its prompt, or since it was
// set back to its choice or before it.
class KeptBlocks {
 public:
  // What stands for a row at `position`; empty if it must choose. `head` is
  // layer * KV heads + KV head. Until the next Keep() for the head.
  absl::Span<const BlockRange> Find(int64_t head, int32_t position,
                                    int32_t reuse_steps,
                                    const SelectionRule& rule) const;
  // A row at `position` chose a layout's list.
  void Keep(int64_t head, int32_t position, const SelectionRule& rule,
            const BlockLayout& layout, int32_t list);
  // Likewise these blocks, ascending.
  void Keep(int64_t head, int32_t position, const SelectionRule& rule,
            absl::Span<const BlockRange> blocks);
  // Rows at `position` and behind it run, perhaps again and with other tokens:
  // what they chose before no longer stands, however they run now.
  void ForgetFrom(int32_t position);
  // Prompt rows run, again or for the first time.
  void Forget() { choices_.clear(); }

 private:
  struct Choice {
    int32_t position = -1;  // none
    SelectionRule rule;
    std::vector<BlockRange> blocks;
  };
  std::vector<Choice> choices_;     // by head
  std::vector<BlockRange> ranges_;  // scratch
};

}  // namespace sparseserve
