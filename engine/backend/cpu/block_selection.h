#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/antidiagonal_scores.h"
#include "engine/backend/cpu/selection_kernels.h"
#include "engine/base/thread_pool.h"
#include "engine/layout/block_choice.h"

namespace sparseserve::cpu {

// Runs selection rules. Work is split over (tile, KV head) pairs, the costliest
// first; a pair streams over its blocks and keeps a few numbers for each, so
// memory grows with the context alone, and its choice does not depend on the
// batch. Used by one thread.
class BlockSelection {
 public:
  BlockSelection(SimdLevel simd, ThreadPool& pool);

  void Run(const SelectArgs& args);

 private:
  struct Item {
    int32_t tile = 0;
    int32_t kv_head = 0;
  };
  // One worker's.
  struct Scratch {
    AntidiagonalScratch antidiagonal;
    std::vector<float> scores;  // [blocks]
    BlockChoice choice;
  };

  void Choose(const SelectArgs& args, const Item& item, Scratch& scratch,
              std::vector<BlockRange>& ranges) const;
  // Puts the lists in the order of tiles.
  void Assemble(const SelectArgs& args) const;

  const SelectionKernels& kernels_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<Scratch>> scratch_;  // one per worker
  // Kept between calls for their memory.
  std::vector<Item> items_;                      // by tile, then by KV head
  std::vector<size_t> order_;                    // of items_, costliest first
  std::vector<std::vector<BlockRange>> ranges_;  // what each item chose
};

}  // namespace sparseserve::cpu
