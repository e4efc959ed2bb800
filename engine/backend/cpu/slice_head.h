#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/antidiagonal_scores.h"
#include "engine/backend/cpu/candidate_weights.h"
#include "engine/backend/cpu/last_row_sums.h"
#include "engine/backend/cpu/mean_key_choice.h"
#include "engine/backend/cpu/page_bounds.h"
#include "engine/backend/cpu/pooled_blocks.h"
#include "engine/backend/cpu/row_peaks.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/backend/cpu/slice_rows.h"
#include "engine/layout/attention_sums.h"
#include "engine/layout/block_choice.h"
#include "engine/layout/flex_prefill.h"
#include "engine/layout/vertical_slash.h"

namespace sparseserve::cpu {

// One worker's memory for the choices of any rule.
struct SelectionScratch {
  AntidiagonalScratch antidiagonal;
  RowPeakScratch row_peaks;
  LastRowScratch last_rows;
  AttentionSums sums;
  PoolingScratch pooling;
  PageBoundScratch page_bounds;
  CandidateScratch candidates;
  MeanKeyScratch mean_keys;
  std::vector<float> scores;  // [blocks]
  BlockChoice choice;
};

// How one KV head of a slice chooses by a rule: what is the same for all of its
// tiles, worked out once, and then the blocks of each. Keeps its memory between
// layers and steps. One thread prepares; any number then choose, each with its
// own scratch.
class SliceHead {
 public:
  // Whether there is anything to prepare.
  static bool Prepares(const SelectionRule& rule);

  // `tiles` are all of the slice's, in order. Borrows nothing.
  void Prepare(const SelectionKernels& kernels, const SelectArgs& args,
               absl::Span<const QueryTile> tiles, int32_t kv_head,
               const SelectionRule& rule, SelectionScratch& scratch);

  // Leaves in scratch.choice the blocks that tile number `index` of the slice
  // visits. REQUIRES: Prepare() with the same arguments.
  void Choose(const SelectionKernels& kernels, const SelectArgs& args,
              const QueryTile& tile, int32_t index, int32_t kv_head,
              const SelectionRule& rule, SelectionScratch& scratch) const;

 private:
  struct Preparing;
  struct Choosing;

  VerticalSlash vertical_slash_;
  FlexPrefill flex_prefill_;
  PooledBlocks keys_;
};

}  // namespace sparseserve::cpu
