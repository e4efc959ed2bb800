#include "engine/backend/cpu/packed_rows.h"

#include <algorithm>
#include <bit>

namespace sparseserve::cpu {
namespace {

// Every row sees an interval that ends with its own position.
VisibleKeys SetIntervals(const PackedRows& rows, int32_t block,
                         const KeyPredicate& predicate,
                         AttentionScratch& scratch) {
  VisibleKeys visible = {.end = 0};
  const int64_t first_key = int64_t{block} * kBlockKeys;
  constexpr int64_t kEnd = kBlockKeys;
  for (int r = 0; r < rows.count; ++r) {
    const int64_t position = rows.position(r);
    const int64_t first = *predicate.FirstOfInterval(position) - first_key;
    scratch.visible_begin[r] =
        static_cast<int32_t>(std::clamp<int64_t>(first, 0, kEnd));
    scratch.visible_end[r] = static_cast<int32_t>(
        std::clamp<int64_t>(position - first_key + 1, 0, kEnd));
    visible.end = std::max(visible.end, scratch.visible_end[r]);
  }
  return visible;
}

// Takes down which keys of a block a row sees.
void SetRow(int r, uint64_t bits, AttentionScratch& scratch,
            VisibleKeys& visible) {
  scratch.visible_bits[r] = bits;
  scratch.visible_begin[r] = bits == 0 ? 0 : std::countr_zero(bits);
  scratch.visible_end[r] = kBlockKeys - std::countl_zero(bits);
  visible.end = std::max(visible.end, scratch.visible_end[r]);
}

// Any predicate. Rows of one position, the heads of a group, stand together.
VisibleKeys SetBits(const PackedRows& rows, int32_t block,
                    const KeyPredicate& predicate, AttentionScratch& scratch) {
  VisibleKeys visible = {.end = 0, .has_bits = true};
  for (int r = 0; r < rows.count; ++r) {
    if (r > 0 && rows.position(r) == rows.position(r - 1)) {
      scratch.visible_bits[r] = scratch.visible_bits[r - 1];
      scratch.visible_begin[r] = scratch.visible_begin[r - 1];
      scratch.visible_end[r] = scratch.visible_end[r - 1];
      continue;
    }
    SetRow(r, predicate.SeenBits(rows.position(r), int64_t{block} * kBlockKeys),
           scratch, visible);
  }
  return visible;
}

}  // namespace

VisibleKeys SetAllVisible(const PackedRows& rows, AttentionScratch& scratch) {
  std::fill_n(scratch.visible_begin, rows.count, 0);
  std::fill_n(scratch.visible_end, rows.count, kBlockKeys);
  return {};
}

VisibleKeys SetVisible(const PackedRows& rows, int32_t block,
                       const KeyPredicate& predicate,
                       AttentionScratch& scratch) {
  if (predicate.FirstOfInterval(rows.position(0)).has_value()) {
    return SetIntervals(rows, block, predicate, scratch);
  }
  return SetBits(rows, block, predicate, scratch);
}

VisibleKeys SetMasked(const PackedRows& rows, const uint64_t* mask,
                      AttentionScratch& scratch) {
  VisibleKeys visible = {.end = 0, .has_bits = true};
  for (int r = 0; r < rows.count; ++r) {
    SetRow(r, mask[rows.tile_row(r)], scratch, visible);
  }
  return visible;
}

void SetBias(const PackedRows& rows, const float* bias_tile,
             AttentionScratch& scratch) {
  for (int r = 0; r < rows.count; ++r) {
    scratch.bias[r] = bias_tile + int64_t{rows.tile_row(r)} * kBlockKeys;
  }
}

}  // namespace sparseserve::cpu
