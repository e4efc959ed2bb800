#include "tests/testing/encoder_rules.h"

#include <algorithm>
#include <cstdlib>

namespace sparseserve::testing {
namespace {

// 0, 1 or 2: which part of a rolled side a place lies in, such that only places
// of one part were neighbours before.
int64_t Region(int64_t place, int64_t side, int64_t window, int64_t shift) {
  if (place < side - window) return 0;
  return place < side - shift ? 1 : 2;
}

}  // namespace

VisibleKeys LongformerRule::Keys(int64_t row) const {
  VisibleKeys keys;
  const int64_t tokens = static_cast<int64_t>(real.size());
  for (int64_t key = 0; key < tokens; ++key) {
    if (!real[key] || (causal && key > row)) continue;
    const int64_t distance = std::abs(row - key);
    const bool near =
        distance <= one_sided_window * dilation && distance % dilation == 0;
    if (global[row] || global[key] || near) keys.push_back({.key = key});
  }
  return keys;
}

VisibleKeys BigBirdRule::Blocks(int64_t block_row) const {
  const int64_t last = static_cast<int64_t>(real.size()) / block - 1;
  std::vector<int64_t> seen;
  if (block_row == 0 || block_row == last) {
    for (int64_t b = 0; b <= last; ++b) seen.push_back(b);
    return CountKeys(seen);
  }
  for (int64_t b = block_row - 1; b <= block_row + 1; ++b) seen.push_back(b);
  for (const int64_t b : {int64_t{0}, last}) {
    if (std::find(seen.begin(), seen.end(), b) == seen.end()) {
      seen.push_back(b);
    }
  }
  for (const int64_t b : random_blocks[block_row - 1]) seen.push_back(b);
  return CountKeys(seen);
}

VisibleKeys BigBirdRule::Keys(int64_t row) const {
  VisibleKeys keys;
  for (const VisibleKey& seen : Blocks(row / block)) {
    for (int64_t key = seen.key * block; key < (seen.key + 1) * block; ++key) {
      if (real[key]) keys.push_back({.key = key, .count = seen.count});
    }
  }
  return keys;
}

VisibleKeys BigBirdEtcRule::Keys(int64_t row) const {
  VisibleKeys keys;
  for (int64_t key = 0; key < extra; ++key) keys.push_back({.key = key});
  if (row >= extra) {
    for (VisibleKey seen : rest.Keys(row - extra)) {
      seen.key += extra;
      keys.push_back(seen);
    }
    return keys;
  }
  for (size_t key = 0; key < rest.real.size(); ++key) {
    if (rest.real[key]) {
      keys.push_back({.key = extra + static_cast<int64_t>(key)});
    }
  }
  return keys;
}

VisibleKeys SwinRule::Keys(int64_t row) const {
  // Where a token lies after the roll.
  const auto rolled = [this](int64_t token) {
    return std::pair((token / width - shift + height) % height,
                     (token % width - shift + width) % width);
  };
  const auto [up, left] = rolled(row);
  VisibleKeys keys;
  for (int64_t key = 0; key < height * width; ++key) {
    const auto [key_up, key_left] = rolled(key);
    if (up / window != key_up / window || left / window != key_left / window) {
      continue;
    }
    double bias = 0;
    if (!bias_table.empty()) {
      bias = bias_table[(up - key_up + window - 1) * (2 * window - 1) + left -
                        key_left + window - 1];
    }
    if (shift > 0 && (Region(up, height, window, shift) !=
                          Region(key_up, height, window, shift) ||
                      Region(left, width, window, shift) !=
                          Region(key_left, width, window, shift))) {
      bias += kOtherRegion;
    }
    keys.push_back({.key = key, .bias = bias});
  }
  return keys;
}

VisibleKeys AxialRule::Keys(int64_t row) const {
  int64_t stride = 1;
  for (size_t a = axis + 1; a < shape.size(); ++a) stride *= shape[a];
  const int64_t place = row / stride % shape[axis];
  VisibleKeys keys;
  for (int64_t at = 0; at < (causal ? place + 1 : shape[axis]); ++at) {
    const int64_t key = row + (at - place) * stride;
    if (real.empty() || real[key]) keys.push_back({.key = key});
  }
  return keys;
}

VisibleKeys TokenGraphRule::Keys(int64_t row) const {
  VisibleKeys keys;
  for (int64_t key = 0; key < tokens; ++key) {
    if (!real.empty() && !real[key]) continue;
    const bool joined =
        std::any_of(arcs.begin(), arcs.end(), [&](const auto& arc) {
          return arc == std::pair(row, key) || arc == std::pair(key, row);
        });
    if (joined || std::abs(row - key) <= degree) keys.push_back({.key = key});
  }
  return keys;
}

}  // namespace sparseserve::testing
