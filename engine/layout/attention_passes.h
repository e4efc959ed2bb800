#pragma once

// How attention that does not follow the order of positions is run: as passes,
// each over queries and keys that were brought into an order of its own.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/layout/block_layout.h"

namespace sparseserve {

// Tokens that are taken together, each group at least one.
struct TokenGroups {
  std::vector<int32_t> begins = {0};  // and where the last ends
  std::vector<int32_t> tokens;

  int32_t size() const { return static_cast<int32_t>(begins.size()) - 1; }
  absl::Span<const int32_t> operator[](int32_t group) const {
    return absl::MakeConstSpan(tokens).subspan(
        begins[group], begins[group + 1] - begins[group]);
  }
};

// One sweep over queries and keys. In slot s stand the query of token
// query_tokens[s] and the key and value of token key_tokens[s]; a token may
// have several slots or none, and a slot no token.
struct AttentionPass {
  std::vector<int32_t> query_tokens;  // [query slots]; -1: none
  std::vector<int32_t> key_tokens;    // [key slots]; -1: none
  // If there are any, slots name groups instead of tokens: in a slot stands the
  // mean of a group's queries, or of its keys and of its values, and each of
  // the group's tokens takes what becomes of the query as its own.
  TokenGroups groups;
  // The heads that go through it, ascending; `layout.kv_heads` is their number.
  std::vector<int32_t> heads;
  // Which of the layer's sets of query, key and value projections.
  int32_t projection = 0;
  // Over slots: rows and positions of tiles are query slots, block b is key
  // slots [64 b, 64 b + 64), the one slice is 0. Has masks.
  BlockLayout layout;

  // The tokens that stand in a slot; empty: none.
  absl::Span<const int32_t> QueriesIn(int64_t slot) const {
    return TokensOf(query_tokens[slot]);
  }
  absl::Span<const int32_t> KeysIn(int64_t slot) const {
    return TokensOf(key_tokens[slot]);
  }

 private:
  absl::Span<const int32_t> TokensOf(const int32_t& named) const {
    if (named < 0) return {};
    return groups.size() > 0 ? groups[named] : absl::MakeConstSpan(&named, 1);
  }
};

// What becomes of the slots of one token's query.
enum class PassCombiner {
  kOnly,        // in each head a token has one slot at most
  kMergeByLse,  // one softmax over the keys of all of its slots
  kMean,        // the mean of its slots, 0 for those that see nothing
};

// Tiles of up to 64 slots, those without any token's query left out.
std::vector<QueryTile> TilesOf(const std::vector<int32_t>& query_tokens);
// [slots]: whether a token stands there.
std::vector<bool> HasToken(const std::vector<int32_t>& slot_tokens);
// So many slots, up to a border of blocks.
int64_t AlignedSlots(int64_t slots);

// All of one sequence's attention in a layer. A token that has no slot in a
// head, or sees nothing there, has an output of 0.
struct AttentionPasses {
  int32_t tokens = 0;
  int32_t heads = 0;
  std::vector<AttentionPass> passes;
  PassCombiner combiner = PassCombiner::kOnly;

  // Blocks that tiles visit, over all passes and heads; with the number of
  // those that there are between all tokens: the density.
  int64_t VisitedBlocks() const;
  // INTERNAL, naming what is broken. For tests and debug builds.
  absl::Status Validate() const;
};

}  // namespace sparseserve
