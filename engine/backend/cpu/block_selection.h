#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/backend/cpu/slice_head.h"
#include "engine/base/thread_pool.h"

namespace sparseserve::cpu {

// Runs selection rules. Work is split over (slice, KV head) pairs for what is
// the same for all tiles of a slice, and then over (tile, KV head) pairs, the
// costliest first. A pair streams over its blocks and keeps a few numbers for
// each, so memory grows with the context and the longest lists alone; its
// choice does not depend on the batch. Used by one thread.
class BlockSelection {
 public:
  // Borrows both.
  BlockSelection(const SelectionKernels& kernels, ThreadPool& pool);

  void Run(const SelectArgs& args);

 private:
  // A KV head of a slice that follows a rule.
  struct Pair {
    int32_t first_tile = 0;
    int32_t tiles = 0;  // of the slice
    int32_t kv_head = 0;
    int32_t rule = 0;
  };
  // One of its tiles that chooses.
  struct Item {
    int32_t tile = 0;
    int32_t pair = 0;
  };

  // The pairs and items of a layer, and which pairs have what to prepare.
  void FindItems(const SelectArgs& args);
  void Prepare(const SelectArgs& args);
  void Choose(const SelectArgs& args);
  // Gives the heads that choose, or chose, their lists.
  void Assemble(const SelectArgs& args) const;

  const SelectionKernels& kernels_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<SelectionScratch>> scratch_;  // one per worker
  // Kept between calls for their memory.
  std::vector<Pair> pairs_;
  std::vector<std::unique_ptr<SliceHead>> heads_;  // of pairs_, and more
  std::vector<int32_t> preparing_;                 // of pairs_
  std::vector<int32_t> pair_of_;                   // [kv_heads] of a slice
  std::vector<Item> items_;                        // by tile, then by KV head
  std::vector<size_t> order_;                      // of items_, costliest first
  std::vector<std::vector<BlockRange>> ranges_;    // what each item chose
};

}  // namespace sparseserve::cpu
