#pragma once

// Rules that choose KV blocks by scores of a step's queries and keys. A rule
// runs in every layer, so it is data that a backend understands, as a
// BlockLayout is; where it comes from is the pattern's business.

#include <cstdint>
#include <variant>

namespace sparseserve {

// Antidiagonal scores (XAttention, Xu et al., arXiv 2503.16428). Positions are
// cut into groups of `stride`; groups t of queries and u <= t of keys score the
// mean of q(t stride + stride - 1 - s) . k(u stride + s) over s, scaled as
// attention scales. A softmax over u gives every query group's weights; a block
// scores the sum of them over its key groups, the tile's query groups and the
// query heads of a KV head. Queries and keys that the tile's last position
// leaves out count as 0.
//
// The tile then visits block 0, its own block, and the best others until they
// have `mass` of the sum of scores, the crossing one included.
struct AntidiagonalRule {
  int32_t stride = 8;  // a power of two, 2 ... 64
  float mass = 0.9f;   // above 0; 1 keeps every block
};

using SelectionRule = std::variant<AntidiagonalRule>;

// How one KV head of a tile gets its list.
struct HeadSelection {
  int32_t rule = -1;        // index among the step's rules; -1: no scores
  int32_t first_layer = 0;  // layers before it do without

  bool IsUsedIn(int32_t layer) const {
    return rule >= 0 && layer >= first_layer;
  }
};

}  // namespace sparseserve
