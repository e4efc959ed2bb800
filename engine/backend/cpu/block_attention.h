#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/amx_attention.h"
#include "engine/backend/cpu/attention_kernels.h"
#include "engine/backend/cpu/packed_rows.h"
#include "engine/base/thread_pool.h"

namespace sparseserve::cpu {

// Attention over block lists. Work is split over (tile, KV head) pairs, and
// over the stretches of their contexts where pairs are few, the costliest
// first. A row's stretches are always merged in ascending order, so its result
// does not depend on the batch. Used by one thread.
class BlockAttention {
 public:
  // `rounds_prefill`: prefill rows over KV in bf16 are multiplied on AMX tiles,
  // if there are any.
  BlockAttention(SimdLevel simd, bool rounds_prefill, ThreadPool& pool);

  void Run(const AttentionArgs& args);
  // Whether prefill rows' queries over KV in bf16 are rounded to bf16.
  bool rounds_queries() const { return amx_kernels_ != nullptr; }

 private:
  // Packed rows of a pair that may be split: it is for decode rows, since many
  // rows come with many pairs.
  static constexpr int kMaxSplitRows = 16;
  static bool MayBeSplit(int packed_rows) {
    return packed_rows <= kMaxSplitRows;
  }

  // A pair, or one stretch of it.
  struct Item {
    int64_t cost = 0;
    int32_t tile = 0;
    int32_t kv_head = 0;
    int32_t first_block = 0;
    int32_t end_block = 0;
    int32_t partial = -1;  // where its result goes; -1: it is a whole pair
    int64_t skipped = 0;   // as in AttentionArgs, once it is attended
  };
  // A pair whose stretches are items, in ascending order.
  struct SplitPair {
    int32_t tile = 0;
    int32_t kv_head = 0;
    int32_t first_partial = 0;
    int32_t end_partial = 0;
  };
  // The totals of an item's rows.
  struct Partial {
    float maximum[kMaxSplitRows];
    float sum[kMaxSplitRows];
    float output[kMaxSplitRows * kMaxHeadDim];
  };

  const AttentionKernels& KernelsOf(const AttentionArgs& args,
                                    const QueryTile& tile) const;
  void ListItems(const AttentionArgs& args);
  void Attend(const AttentionArgs& args, Item& item, AttentionScratch& scratch);
  void Merge(const AttentionArgs& args, const SplitPair& pair,
             AttentionScratch& scratch) const;
  // Whether the item's blocks are placed as they are listed, not by position.
  bool CountsListed(const AttentionArgs& args, const Item& item) const;
  void AddBlocks(const AttentionArgs& args, const PackedRows& rows,
                 const Item& item, AttentionScratch& scratch) const;
  void Finish(const AttentionKernels& kernels, const AttentionArgs& args,
              const PackedRows& rows, AttentionScratch& scratch) const;

  const AttentionKernels& kernels_;
  const AttentionKernels& decode_kernels_;
  const AttentionKernels* amx_kernels_ = nullptr;  // null: none
  ThreadPool& pool_;
  std::vector<std::unique_ptr<AttentionScratch>> scratch_;  // one per worker
  std::vector<std::unique_ptr<AmxScratch>> amx_scratch_;    // likewise, or none
  // Kept between calls for their memory.
  std::vector<Item> items_;
  std::vector<SplitPair> pairs_;
  std::vector<Partial> partials_;
};

}  // namespace sparseserve::cpu
