#pragma once

// The largest weight that rows of a tile give each block: the exact part of
// PeakWeightRule of layout/selection_rule.h.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/row_summaries.h"
#include "engine/backend/cpu/selection_kernels.h"

namespace sparseserve::cpu {

// One worker's memory.
struct RowPeakScratch {
  RowSummaries summaries;
  std::vector<int32_t> seen;           // [query rows]: of the own block's keys
  std::vector<std::byte> copied;       // one block's keys
  std::vector<const std::byte*> keys;  // of blocks
  std::vector<float> shares;           // [padded blocks]
};

// peaks[b] = max(peaks[b], weights[b]); what is no number stays one's value, so
// that garbage comes to light. REQUIRES: weights has as many elements or more.
inline void RaisePeaks(const std::vector<float>& weights,
                       std::vector<float>& peaks) {
  for (size_t b = 0; b < peaks.size(); ++b) {
    if (weights[b] > peaks[b] || std::isnan(weights[b])) peaks[b] = weights[b];
  }
}

// Raises each block's `peaks` to the largest weight that one of `rows` rows of
// the tile, of a query head of the KV head, gives it. REQUIRES: peaks has an
// element for each block up to the tile's own; rows >= 1.
void RaiseToRowWeights(const SelectionKernels& kernels, const SelectArgs& args,
                       const QueryTile& tile, int32_t kv_head, int32_t rows,
                       RowPeakScratch& scratch, std::vector<float>& peaks);

}  // namespace sparseserve::cpu
