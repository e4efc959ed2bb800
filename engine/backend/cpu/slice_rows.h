#pragma once

#include <cstdint>
#include <vector>

#include "engine/layout/block_layout.h"

namespace sparseserve::cpu {

// Consecutive rows of one slice, and the positions where they stand.
struct SliceRows {
  int32_t slice = 0;
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t first_position = 0;

  int32_t end_position() const { return first_position + rows; }
  // Of positions up to the last row's.
  int32_t blocks() const { return (end_position() - 1) / kPageTokens + 1; }
  // The last `count` of them, or all.
  SliceRows Last(int32_t count) const {
    const int32_t others = rows > count ? rows - count : 0;
    return {slice, first_row + others, rows - others, first_position + others};
  }
};

inline SliceRows RowsOf(const QueryTile& tile) {
  return {tile.slice, tile.first_row, tile.rows, tile.first_position};
}

}  // namespace sparseserve::cpu
