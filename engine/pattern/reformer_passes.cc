#include "engine/pattern/reformer_passes.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

constexpr int64_t kBlock = kPageTokens;

bool HasOneChunk(const ReformerLshPattern& pattern,
                 const ReformerTokens& tokens) {
  return static_cast<int64_t>(tokens.is_real.size()) <= pattern.chunk_tokens;
}

PassesSize SizeOf(const ReformerLshPattern& pattern,
                  const ReformerTokens& tokens) {
  const auto count = static_cast<int64_t>(tokens.is_real.size());
  const bool sorts = !HasOneChunk(pattern, tokens);
  const int64_t slots = sorts ? tokens.rounds * count : count;
  const int64_t chunk = sorts ? pattern.chunk_tokens : count;
  const int64_t seen =
      sorts ? int64_t{pattern.chunks_before} + 1 + pattern.chunks_after : 1;
  // A tile's slots lie in one chunk more than they fill. The ring's end may cut
  // what they see in two.
  const int64_t of_tile = std::min(
      BlocksOfAligned(slots), 2 + MostBlocksOf(kBlock + (seen + 1) * chunk));
  const int64_t listed = tokens.heads * BlocksOfAligned(slots) * of_tile;
  const bool sees_twice = slots / chunk < seen;
  return {.slots = tokens.heads * slots,
          .blocks = listed,
          .bias_tiles = sees_twice ? listed : 0};
}

absl::Status CheckTokens(const ReformerLshPattern& pattern,
                         const ReformerTokens& tokens) {
  const auto count = static_cast<int64_t>(tokens.is_real.size());
  RETURN_IF_ERROR(CheckSequence(pattern, count, tokens.heads));
  if (HasOneChunk(pattern, tokens)) {
    return CheckPassesSize("reformer_lsh", SizeOf(pattern, tokens));
  }
  if (count % pattern.chunk_tokens != 0) {
    return absl::InvalidArgumentError(
        StrCat("reformer_lsh: a sequence of ", count,
               " tokens; allowed: up to chunk_tokens, ", pattern.chunk_tokens,
               ", or a multiple of it"));
  }
  if (tokens.rounds < 1 || tokens.rounds * count > kMaxEncoderTokens) {
    return absl::InvalidArgumentError(
        StrCat("reformer_lsh: ", tokens.rounds, " rounds; allowed: 1 to ",
               kMaxEncoderTokens / count, " of ", count, " tokens"));
  }
  const int64_t wanted = int64_t{tokens.heads} * tokens.rounds * count;
  if (static_cast<int64_t>(tokens.buckets.size()) != wanted) {
    return absl::InvalidArgumentError(StrCat(
        "reformer_lsh: ", tokens.buckets.size(), " buckets, not ", wanted));
  }
  return CheckPassesSize("reformer_lsh", SizeOf(pattern, tokens));
}

// One head's pass.
class SortedPass {
 public:
  SortedPass(const ReformerLshPattern& pattern, const ReformerTokens& tokens,
             int32_t head)
      : pattern_(pattern), tokens_(tokens) {
    pass_.heads = {head};
    Sort(head);
    const auto slots = static_cast<int64_t>(pass_.key_tokens.size());
    chunk_ = std::min<int64_t>(pattern.chunk_tokens, slots);
    chunks_ = slots / chunk_;
    DropSlotsOfSelves();
  }

  AttentionPass Build() {
    MaskedLayoutBuilder builder(1, HasToken(pass_.key_tokens));
    for (const QueryTile& tile : TilesOf(pass_.query_tokens)) {
      builder.BeginList(tile.rows);
      for (int32_t r = 0; r < tile.rows; ++r) {
        ShowRow(r, int64_t{tile.first_row} + r, builder);
      }
      // Every slot that was left sees others or itself.
      builder.AddTile(tile, {builder.EndList()});
    }
    pass_.layout = builder.TakeLayout();
    return std::move(pass_);
  }

 private:
  void Sort(int32_t head) {
    const auto count = static_cast<int64_t>(tokens_.is_real.size());
    std::vector<int32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    if (HasOneChunk(pattern_, tokens_)) {
      pass_.key_tokens = order;
    } else {
      for (int32_t round = 0; round < tokens_.rounds; ++round) {
        const int32_t* buckets =
            tokens_.buckets.data() +
            (int64_t{head} * tokens_.rounds + round) * count;
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
          return buckets[a] < buckets[b];
        });
        pass_.key_tokens.insert(pass_.key_tokens.end(), order.begin(),
                                order.end());
      }
    }
    pass_.query_tokens = pass_.key_tokens;
  }

  // Leaves tokens only the slots that see others, where there are any.
  void DropSlotsOfSelves() {
    std::vector<bool> sees_others(tokens_.is_real.size());
    std::vector<bool> slot_sees(pass_.query_tokens.size());
    for (size_t slot = 0; slot < slot_sees.size(); ++slot) {
      slot_sees[slot] = SeesOthers(static_cast<int64_t>(slot));
      if (slot_sees[slot]) sees_others[pass_.query_tokens[slot]] = true;
    }
    for (size_t slot = 0; slot < slot_sees.size(); ++slot) {
      int32_t& token = pass_.query_tokens[slot];
      if (!slot_sees[slot] && sees_others[token]) token = -1;
    }
  }

  struct ChunkSeen {
    int64_t chunk = 0;
    int32_t times = 1;
  };
  // What a chunk sees.
  std::vector<ChunkSeen> ChunksSeen(int64_t chunk) const {
    if (chunks_ == 1) return {{chunk, 1}};
    std::vector<ChunkSeen> seen;
    for (int64_t step = -int64_t{pattern_.chunks_before};
         step <= pattern_.chunks_after; ++step) {
      const int64_t at = ((chunk + step) % chunks_ + chunks_) % chunks_;
      const auto known =
          std::find_if(seen.begin(), seen.end(),
                       [&](const ChunkSeen& c) { return c.chunk == at; });
      if (known == seen.end()) {
        seen.push_back({at, 1});
      } else {
        ++known->times;
      }
    }
    return seen;
  }

  bool Sees(int32_t query, int32_t key) const {
    return query != key && tokens_.is_real[key] &&
           (!pattern_.is_causal || key <= query);
  }

  bool SeesOthers(int64_t slot) const {
    const int32_t query = pass_.key_tokens[slot];
    for (const auto& [chunk, times] : ChunksSeen(slot / chunk_)) {
      const auto first = pass_.key_tokens.begin() + chunk * chunk_;
      if (std::any_of(first, first + chunk_,
                      [&](int32_t key) { return Sees(query, key); })) {
        return true;
      }
    }
    return false;
  }

  void ShowRow(int32_t row, int64_t slot, MaskedLayoutBuilder& builder) const {
    const int32_t query = pass_.query_tokens[slot];
    if (query < 0) return;
    const bool sees_others = SeesOthers(slot);
    for (const auto& [chunk, times] : ChunksSeen(slot / chunk_)) {
      const int64_t end = (chunk + 1) * chunk_;
      for (int64_t first = chunk * chunk_; first < end;) {
        const int64_t stop = std::min(end, (first / kBlock + 1) * kBlock);
        uint64_t bits = 0;
        for (int64_t s = first; s < stop; ++s) {
          const int32_t key = pass_.key_tokens[s];
          if (sees_others ? Sees(query, key) : key == query) {
            bits |= uint64_t{1} << (s % kBlock);
          }
        }
        builder.ShowBits(row, static_cast<int32_t>(first / kBlock), bits);
        first = stop;
      }
      if (times > 1) {
        builder.AddBias({row, row + 1}, {chunk * chunk_, end},
                        std::log(static_cast<float>(times)));
      }
    }
  }

  const ReformerLshPattern& pattern_;
  const ReformerTokens& tokens_;
  AttentionPass pass_;
  int64_t chunk_ = 0;
  int64_t chunks_ = 0;
};

}  // namespace

absl::StatusOr<AttentionPasses> ReformerLshPasses(
    const ReformerLshPattern& pattern, const ReformerTokens& tokens) {
  RETURN_IF_ERROR(CheckTokens(pattern, tokens));
  AttentionPasses passes = {
      .tokens = static_cast<int32_t>(tokens.is_real.size()),
      .heads = tokens.heads,
      .combiner = PassCombiner::kMergeByLse};
  for (int32_t head = 0; head < tokens.heads; ++head) {
    passes.passes.push_back(SortedPass(pattern, tokens, head).Build());
  }
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
