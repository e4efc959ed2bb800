#pragma once

// Sums of the last rows' attention: VerticalSlashRule of
// layout/selection_rule.h says what they are.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/backend/cpu/slice_rows.h"
#include "engine/layout/attention_sums.h"

namespace sparseserve::cpu {

// One worker's memory; it grows with the context alone.
struct LastRowScratch {
  std::vector<float> queries;   // [query rows, padded depth]
  std::vector<std::byte> keys;  // one block's
  std::vector<float> products;  // [query rows, kPageTokens]
  std::vector<float> maxima;    // [query rows]
  std::vector<float> sums;      // [query rows]; then the row's LSE
  std::vector<float> mirrored;  // [keys]: sums by distance, the longest first
};

// Replaces `sums` with those of a KV head's query heads at `rows`, which see
// every key up to their own. Two passes over the keys: the rows' LSE, then the
// weights.
void LastRowSums(const SelectionKernels& kernels, const SelectArgs& args,
                 const SliceRows& rows, int32_t kv_head,
                 LastRowScratch& scratch, AttentionSums& sums);

}  // namespace sparseserve::cpu
