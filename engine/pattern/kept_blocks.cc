#include "engine/pattern/kept_blocks.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

namespace sparseserve {

absl::Span<const BlockRange> KeptBlocks::Find(int64_t head, int32_t position,
                                              int32_t reuse_steps,
                                              const SelectionRule& rule) const {
  if (head >= static_cast<int64_t>(choices_.size())) return {};
  const Choice& choice = choices_[head];
  const bool stands = choice.position >= 0 && choice.position < position &&
                      choice.position / reuse_steps == position / reuse_steps &&
                      choice.rule == rule;
  return stands ? absl::MakeConstSpan(choice.blocks)
                : absl::Span<const BlockRange>();
}

void KeptBlocks::Keep(int64_t head, int32_t position, const SelectionRule& rule,
                      const BlockLayout& layout, int32_t list) {
  std::vector<int32_t> blocks;
  std::merge(layout.full_blocks.begin() + layout.full_offsets[list],
             layout.full_blocks.begin() + layout.full_offsets[list + 1],
             layout.partial_blocks.begin() + layout.partial_offsets[list],
             layout.partial_blocks.begin() + layout.partial_offsets[list + 1],
             std::back_inserter(blocks));
  ranges_.clear();
  for (const int32_t block : blocks) {
    if (!ranges_.empty() && ranges_.back().end == block) {
      ++ranges_.back().end;
    } else {
      ranges_.push_back({block, block + 1});
    }
  }
  Keep(head, position, rule, ranges_);
}

void KeptBlocks::Keep(int64_t head, int32_t position, const SelectionRule& rule,
                      absl::Span<const BlockRange> blocks) {
  if (head >= static_cast<int64_t>(choices_.size())) choices_.resize(head + 1);
  Choice& choice = choices_[head];
  choice.position = position;
  choice.rule = rule;
  choice.blocks.assign(blocks.begin(), blocks.end());
}

void KeptBlocks::ForgetFrom(int32_t position) {
  for (Choice& choice : choices_) {
    if (choice.position >= position) choice.position = -1;
  }
}

}  // namespace sparseserve
