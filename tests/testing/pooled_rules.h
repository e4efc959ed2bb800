#pragma once

// Systems whose queries see means of several keys. See encoder_rules.h.

#include <cstdint>
#include <vector>

#include "tests/testing/rule_attention.h"

namespace sparseserve::testing {

// Zhu and Soricut 2021, arXiv 2107.11906, over a binary tree of blocks: a row
// sees its own block and the one that shares its parent token by token, and the
// sibling of each larger ancestor by means over as many tokens as the ancestor
// has blocks; queries are means too there. All levels share one softmax, a mean
// counting for each of its tokens. Means are of real tokens; behind the last
// there is padding up to a power of two of blocks.
struct HTransformerRule {
  int64_t block = 16;
  bool causal = false;
  std::vector<bool> real = {};  // [tokens]; empty: all

  // REQUIRES: the row is real.
  AttendedRow Attend(int64_t row, const Rows& queries, const Rows& keys,
                     const Rows& values, double scale) const;
};

// Yuan et al. 2025, arXiv 2502.11089: three attentions whose outputs are added
// with gates as weights.
struct NsaRule {
  int64_t compressed_tokens = 32;  // that a compressed key stands for
  int64_t stride = 16;             // between the starts of two; divides both
  int64_t block = 64;              // of the selected blocks
  int64_t most_blocks = 16;        // the first and the last two among them
  int64_t window = 512;

  // Of the compressed keys those whose tokens all lie at or before the row.
  VisibleKeys Compressed(int64_t row) const;
  // The blocks with the largest score, ascending (ties: the earlier). A block's
  // score is the weight of compressed keys, [heads][compressed keys] for all
  // query heads of a KV head, once for each stride that it shares with them.
  std::vector<int64_t> Blocks(
      int64_t row, const std::vector<std::vector<double>>& weights) const;
  VisibleKeys Selected(int64_t row, const std::vector<int64_t>& blocks) const;
  VisibleKeys Window(int64_t row) const;
};

}  // namespace sparseserve::testing
