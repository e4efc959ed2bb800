#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/attention_passes.h"
#include "engine/pattern/encoder_patterns.h"

namespace sparseserve {

// Joins two tokens: each sees the other.
struct TokenArc {
  int32_t from = 0;
  int32_t to = 0;
  friend bool operator==(const TokenArc&, const TokenArc&) = default;
  friend bool operator<(const TokenArc& a, const TokenArc& b) {
    return std::tie(a.from, a.to) < std::tie(b.from, b.to);
  }
};

// What a pattern of token graphs is applied to.
struct TokenGraph {
  int32_t heads = 0;
  std::vector<bool> is_real;  // [tokens]; false for padding
  // Of each head, or one set for all of them; empty: none. The arcs of a syntax
  // tree, of lexical neighbours, of tokens that were drawn. An arc may repeat
  // another or end at padding, and then adds nothing.
  std::vector<std::vector<TokenArc>> arcs;
};

// One pass in the order of positions; heads that share their arcs and have the
// same degree share their lists. Only blocks in which somebody sees something
// are listed: arcs that lie scattered soon list them all. INVALID_ARGUMENT
// names what does not fit.
absl::StatusOr<AttentionPasses> TokenGraphPasses(
    const TokenGraphPattern& pattern, const TokenGraph& graph);

}  // namespace sparseserve
