#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/attention_kernels.h"
#include "engine/base/thread_pool.h"

namespace sparseserve::cpu {

// Rows of one pass over a list: query rows of a tile, each with every head of
// a KV head's group.
struct PackedRows {
  QueryTile tile;
  int kv_head = 0;
  int group = 1;
  int first = 0;  // among the tile's rows * group
  int count = 0;

  int query_row(int r) const { return tile.first_row + (first + r) / group; }
  int position(int r) const {
    return tile.first_position + (first + r) / group;
  }
  int head(int r) const { return kv_head * group + (first + r) % group; }
};

// Attention over block lists. Work is split over (tile, KV head) pairs, the
// costliest first. A row always visits its blocks in ascending order, so its
// result does not depend on the batch. Used by one thread.
class BlockAttention {
 public:
  BlockAttention(SimdLevel simd, ThreadPool& pool);

  void Run(const AttentionArgs& args);

 private:
  struct Item {
    int64_t cost = 0;
    int32_t tile = 0;
    int32_t kv_head = 0;
  };

  void Attend(const AttentionArgs& args, const Item& item,
              AttentionScratch& scratch) const;

  void AddBlocks(const AttentionArgs& args, const PackedRows& rows,
                 int32_t list, AttentionScratch& scratch) const;

  const AttentionKernels& kernels_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<AttentionScratch>> scratch_;  // one per worker
  std::vector<Item> items_;  // kept between calls for its memory
};

}  // namespace sparseserve::cpu
