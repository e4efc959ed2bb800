#pragma once

// Bounds of the keys of full pages, and the scores that they give:
// PageBoundRule of layout/selection_rule.h says what they are.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/backend/cpu/slice_rows.h"
#include "engine/base/thread_pool.h"

namespace sparseserve::cpu {

// Takes the bounds of every page whose last key is one of those just stored at
// `kv_slots`, from all of its keys: what the page held before does not show.
// REQUIRES: kv.key_bounds is not null.
void StorePageBounds(const SelectionKernels& kernels, const KvLayerView& kv,
                     absl::Span<const int64_t> kv_slots, ThreadPool& pool);

// One worker's memory.
struct PageBoundScratch {
  std::vector<float> queries;  // [2, head_dim]: what meets M, and m
};

// Replaces `scores` with one for each of the first `blocks` blocks of the
// slice. REQUIRES: they are full, and kv.key_bounds is not null.
void PageBoundScores(const SelectionKernels& kernels, const SelectArgs& args,
                     const SliceRows& rows, int32_t kv_head, int32_t blocks,
                     PageBoundScratch& scratch, std::vector<float>& scores);

}  // namespace sparseserve::cpu
