#pragma once

// Include where functions are marked by amx_target.h.

#include <immintrin.h>

#include <cstdint>

#include "engine/backend/cpu/amx_target.h"

namespace sparseserve::cpu {

// Rows of the eight tiles, all of which have rows of 64 bytes. Whoever uses
// tiles configures them: oneDNN's products do so otherwise.
struct TileRows {
  uint8_t rows[8] = {16, 16, 16, 16, 16, 16, 16, 16};
};

SPARSESERVE_AMX_INLINE void ConfigureTiles(const TileRows& tiles) {
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  Config config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = tiles.rows[tile];
  }
  // GCC 12 believes that the instruction reads eight bytes.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

}  // namespace sparseserve::cpu
