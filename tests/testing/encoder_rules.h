#pragma once

// What a query may see in encoders with fixed patterns, from their papers and
// released code, a row at a time and by no means fast. They know nothing of
// blocks to visit, so that plans can be tested against them. `real` is false
// for padding, [tokens]; rows are not asked for where it is false.

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "tests/testing/rule_attention.h"

namespace sparseserve::testing {

// Beltagy et al. 2020, arXiv 2004.05150; the encoder of LED alike.
struct LongformerRule {
  int64_t one_sided_window = 1;  // steps of `dilation` to either side
  int64_t dilation = 1;
  bool causal = false;
  std::vector<bool> global;  // [tokens]
  std::vector<bool> real;    // [tokens]

  // Rows of global tokens see every key, through projections of their own.
  VisibleKeys Keys(int64_t row) const;
};

// Zaheer et al. 2020, arXiv 2007.14062. Blocks are of `block` tokens; the first
// and the last are global, the window is three blocks wide. A random block that
// repeats another of its row, or one of the window or the global ones, counts
// again: as in the released code, whose eval mode draws block 0 every time.
struct BigBirdRule {
  int64_t block = 64;
  // [blocks - 2][random blocks]: of every row of blocks but the first and last.
  std::vector<std::vector<int64_t>> random_blocks;
  std::vector<bool> real;  // [tokens]

  VisibleKeys Keys(int64_t row) const;
  // The same by blocks, without padding.
  VisibleKeys Blocks(int64_t block_row) const;
};

// The ETC variant of the same paper: `extra` tokens before those of `rest`,
// that see all and are seen by all.
struct BigBirdEtcRule {
  int64_t extra = 0;
  BigBirdRule rest;

  VisibleKeys Keys(int64_t row) const;
};

// Liu et al. 2021, arXiv 2103.14030. Tokens are places of a grid in row-major
// order whose sides are multiples of `window`; a shifted layer is rolled up and
// left by `shift` before it is cut into windows.
struct SwinRule {
  int64_t height = 0;
  int64_t width = 0;
  int64_t window = 7;
  int64_t shift = 0;
  // Of one head: [(2 * window - 1) ^ 2], by the query's row less the key's,
  // then column. May be empty.
  std::vector<double> bias_table;

  // Keys of the same window, those of other regions with kOtherRegion as bias.
  VisibleKeys Keys(int64_t row) const;

  // As released: not minus infinity.
  static constexpr double kOtherRegion = -100;
};

// Ho et al. 2019, arXiv 1912.12180, along one axis of an n-d grid in row-major
// order; a layer sums the outputs of its axes.
struct AxialRule {
  std::vector<int64_t> shape;
  int axis = 0;
  bool causal = false;     // only keys at or before the query on the axis
  std::vector<bool> real;  // [places]; empty: all

  VisibleKeys Keys(int64_t row) const;
};

// Any graph over tokens: arcs of a syntax tree, lexical neighbours. Arcs count
// in both directions, and every token sees itself.
struct TokenGraphRule {
  int64_t tokens = 0;
  std::vector<std::pair<int64_t, int64_t>> arcs;
  // Brahma et al. 2022, arXiv 2210.03841: neighbours up to this far.
  int64_t degree = 0;
  std::vector<bool> real;  // [tokens]; empty: all

  VisibleKeys Keys(int64_t row) const;
};

}  // namespace sparseserve::testing
