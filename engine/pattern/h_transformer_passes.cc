#include "engine/pattern/h_transformer_passes.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

using Keys = MaskedLayoutBuilder::Keys;
using Rows = MaskedLayoutBuilder::Rows;

// Whether there is a level at which so many tokens are taken together.
bool HasLevel(const HTransformerPattern& pattern, int64_t tokens,
              int64_t together) {
  return together == 1 || together * pattern.block_tokens < tokens;
}

PassesSize SizeOf(const HTransformerPattern& pattern,
                  const HTransformerTokens& tokens) {
  const auto count = static_cast<int64_t>(tokens.is_real.size());
  PassesSize size;
  for (int64_t together = 1; HasLevel(pattern, count, together);
       together *= 2) {
    const int64_t slots = (count + together - 1) / together;
    const int64_t tiles = BlocksOfAligned(slots);
    const int64_t seen = kPageTokens + 4 * int64_t{pattern.block_tokens};
    size.slots += tokens.heads * slots;
    size.blocks += tiles * std::min(tiles, MostBlocksOf(seen));
    // One for a block of keys, and another for the last tile, with fewer rows.
    if (together > 1) size.bias_tiles += 2 * tiles;
  }
  return size;
}

// The level at which so many tokens are taken together.
class LevelPass {
 public:
  LevelPass(const HTransformerPattern& pattern,
            const HTransformerTokens& tokens, int64_t together)
      : block_(pattern.block_tokens),
        is_causal_(pattern.is_causal),
        is_lowest_(together == 1) {
    pass_.heads.resize(tokens.heads);
    std::iota(pass_.heads.begin(), pass_.heads.end(), 0);
    const auto count = static_cast<int64_t>(tokens.is_real.size());
    for (int64_t first = 0; first < count; first += together) {
      AddSlot(tokens, first, std::min(first + together, count));
    }
    pass_.key_tokens = pass_.query_tokens;
    // Every slot may be a group's own; the lowest level's tokens need none.
    if (is_lowest_) pass_.groups = {};
  }

  AttentionPass Build() {
    MaskedLayoutBuilder builder(static_cast<int32_t>(pass_.heads.size()),
                                HasToken(pass_.key_tokens));
    for (const QueryTile& tile : TilesOf(pass_.query_tokens)) {
      builder.BeginList(tile.rows);
      const int64_t end = int64_t{tile.first_row} + tile.rows;
      Keys seen = {end, 0};
      for (int64_t slot = tile.first_row; slot < end;) {
        const int64_t stop = std::min(end, (slot / block_ + 1) * block_);
        const Keys keys = Show(slot,
                               {static_cast<int32_t>(slot - tile.first_row),
                                static_cast<int32_t>(stop - tile.first_row)},
                               builder);
        seen = {std::min(seen.begin, keys.begin), std::max(seen.end, keys.end)};
        slot = stop;
      }
      if (!is_lowest_) AddCounts(tile, seen, builder);
      const int32_t list = builder.EndList();
      if (list < 0) continue;
      builder.AddTile(tile, std::vector<int32_t>(pass_.heads.size(), list));
    }
    pass_.layout = builder.TakeLayout();
    return std::move(pass_);
  }

 private:
  // The slot of tokens [first, end).
  void AddSlot(const HTransformerTokens& tokens, int64_t first, int64_t end) {
    std::vector<int32_t>& real = pass_.groups.tokens;
    const size_t before = real.size();
    for (int64_t token = first; token < end; ++token) {
      if (tokens.is_real[token]) real.push_back(static_cast<int32_t>(token));
    }
    counts_.push_back(static_cast<int32_t>(real.size() - before));
    if (real.size() == before) {
      pass_.query_tokens.push_back(-1);
      return;
    }
    pass_.query_tokens.push_back(is_lowest_ ? static_cast<int32_t>(first)
                                            : pass_.groups.size());
    pass_.groups.begins.push_back(static_cast<int32_t>(real.size()));
  }

  // Shows rows of one block, the first of which is `slot`, what they see;
  // within the slots that it returns.
  Keys Show(int64_t slot, const Rows& rows,
            MaskedLayoutBuilder& builder) const {
    const int64_t block = slot / block_;
    const auto slots = static_cast<int64_t>(pass_.key_tokens.size());
    const auto blocks_from = [&](int64_t first, int64_t number) -> Keys {
      return {std::min(slots, first * block_),
              std::min(slots, (first + number) * block_)};
    };
    if (is_lowest_) {
      // Its own block and the one that it shares a parent with.
      const Keys keys = blocks_from(block / 2 * 2, 2);
      if (is_causal_) {
        builder.ShowBand(rows, {slot + 1 - 2 * block_, slot + 1}, keys);
      } else {
        builder.Show(rows, keys);
      }
      return keys;
    }
    const int64_t sibling = block ^ 1;
    if (is_causal_ && sibling > block) return {slot, slot};
    const Keys keys = blocks_from(sibling, 1);
    builder.Show(rows, keys);
    return keys;
  }

  // Lets means of a tile's keys count for each of their tokens; for all of its
  // rows and of each block's keys, so that tiles mostly are alike.
  void AddCounts(const QueryTile& tile, const Keys& seen,
                 MaskedLayoutBuilder& builder) const {
    const auto slots = static_cast<int64_t>(counts_.size());
    const int64_t end = std::min(slots, AlignedSlots(seen.end));
    for (int64_t first = seen.begin / kPageTokens * kPageTokens; first < end;) {
      int64_t stop = first + 1;
      while (stop < end && counts_[stop] == counts_[first]) ++stop;
      if (counts_[first] > 1) {
        builder.AddBias({0, tile.rows}, {first, stop},
                        std::log(static_cast<float>(counts_[first])));
      }
      first = stop;
    }
  }

  const int64_t block_;
  const bool is_causal_;
  const bool is_lowest_;
  AttentionPass pass_;
  std::vector<int32_t> counts_;  // [slots]: real tokens
};

}  // namespace

absl::StatusOr<AttentionPasses> HTransformerPasses(
    const HTransformerPattern& pattern, const HTransformerTokens& tokens) {
  const auto count = static_cast<int64_t>(tokens.is_real.size());
  RETURN_IF_ERROR(CheckSequence(pattern, count, tokens.heads));
  RETURN_IF_ERROR(CheckPassesSize("h_transformer", SizeOf(pattern, tokens)));
  AttentionPasses passes = {.tokens = static_cast<int32_t>(count),
                            .heads = tokens.heads,
                            .combiner = PassCombiner::kMergeByLse};
  for (int64_t together = 1; HasLevel(pattern, count, together);
       together *= 2) {
    AttentionPass pass = LevelPass(pattern, tokens, together).Build();
    if (!pass.layout.tiles.empty()) passes.passes.push_back(std::move(pass));
  }
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
