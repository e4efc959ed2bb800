#pragma once

// Chooses KV blocks for tiles of prefill rows by scores of queries and keys, on
// a GPU. Pointers are the device's unless a comment says otherwise. No CUDA
// header is needed here.

#include <cstdint>
#include <memory>

#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/paged_kv.h"
#include "engine/backend/cuda/prefill_attention.h"
#include "engine/layout/selection_rule.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Where lists end that are chosen. Arrays of a DeviceBlockLists that begin with
// the lists of a base layout, `base_lists` of them, and go on with two for each
// pair of tile and KV head: list base_lists + 1 + 2 * (tile * kv_heads +
// kv_head) is what the pair chose, and nobody's are those between. A pair has
// room for `most_blocks` full blocks and one partial block, its own.
struct ChosenLists {
  std::int32_t base_lists = 0;
  std::int64_t base_full_blocks = 0;     // that the base lists have together
  std::int64_t base_partial_blocks = 0;  // likewise
  std::int32_t* list_of = nullptr;       // [tiles, kv_heads]
  std::int64_t* full_offsets = nullptr;  // [OffsetsWith()]
  std::int32_t* full_blocks = nullptr;   // [FullBlocksWith()]
  std::int64_t* partial_offsets = nullptr;
  std::int32_t* partial_blocks = nullptr;  // [PartialBlocksWith()]
  // As in DeviceBlockLists; null if the base has none.
  std::uint64_t* partial_masks = nullptr;
  std::int32_t* order = nullptr;  // [tiles * kv_heads]
  // [tiles, kv_heads], or null: how many blocks the pair has chosen. Those of
  // pairs without a rule are left alone.
  std::int32_t* counts = nullptr;

  std::int64_t OffsetsWith(std::int64_t pairs) const {
    return base_lists + 2 * pairs + 1;
  }
  std::int64_t FullBlocksWith(std::int64_t pairs,
                              std::int64_t most_blocks) const {
    return base_full_blocks + pairs * most_blocks;
  }
  std::int64_t PartialBlocksWith(std::int64_t pairs) const {
    return base_partial_blocks + pairs;
  }
};

// In place of a pair's rule.
inline constexpr std::int32_t kBaseList = -1;  // it visits its base list
inline constexpr std::int32_t kRowList = -2;   // its row's in RowLists

// Lists that were chosen for single rows, as DecodeLists: [rows, kv_heads].
struct RowLists {
  const std::int32_t* block_counts = nullptr;  // or kAllBlocks
  const std::int64_t* block_offsets = nullptr;
  const std::int32_t* blocks = nullptr;  // of each list ascending, its own last
};

struct BlockSelectionArgs {
  // As in PrefillAttentionArgs.
  const void* queries = nullptr;
  std::int64_t query_stride = 0;
  std::int32_t heads = 0;
  PagedKv kv;
  float scale = 1.0f;

  // As in DeviceBlockLists: tiles of a slice follow each other, as do their
  // rows, and each lies in one block of 64 positions.
  std::int32_t tiles = 0;
  const std::int32_t* tile_fields = nullptr;
  // [slices + 1]: the first tile of each slice that has tiles, then `tiles`.
  std::int32_t slices = 0;
  const std::int32_t* first_tiles = nullptr;
  // At least the number of blocks up to the last position of every tile, which
  // a value on the host bounds: 1 ... kMostBlocks.
  std::int32_t most_blocks = 0;

  // On the host; read before Run() returns. FlexPrefillRule, CandidateMassRule
  // and MeanKeyRule are refused: no kernel runs them yet.
  const SelectionRule* rules = nullptr;
  std::int32_t rule_count = 0;
  // [tiles, kv_heads]: index of the pair's rule, of all tiles of a slice the
  // same where it is not kBaseList; or kRowList, only of tiles of one row.
  const std::int32_t* rule_of = nullptr;
  RowLists row_lists;  // may be null where no pair has kRowList
  const std::int32_t* base_list_of = nullptr;  // [tiles, kv_heads]
  // bf16 [pages, kv_heads, 2, head_dim]: the greatest and the least of each
  // element of a page's keys, of pages that are full; 16-byte aligned. May be
  // null where no rule is a PageBoundRule.
  const void* key_bounds = nullptr;
  // f32 [pages, kv_heads, head_dim]: the mean of a page's keys, of pages that
  // are full; 16-byte aligned. A SimilarityRule that gates nothing then does
  // not read their keys. May be null.
  const float* mean_keys = nullptr;

  ChosenLists chosen;
};

// Runs selection rules for prefill. Owns room on the device; at most one Run()
// may be under way at any time: use one stream.
class BlockSelection {
 public:
  static constexpr std::int32_t kMostBlocks = 8192;  // 512K positions

  // For the current device, with `workspace_bytes` there for what lies between
  // scores and choices: tiles that do not fit at once are worked on one after
  // another. An error names what the device lacks.
  static LaunchStatus Create(std::int64_t workspace_bytes,
                             std::unique_ptr<BlockSelection>* created);
  // Likewise, with kernels of the caller's choice.
  static LaunchStatus Create(PrefillKernel kernel, std::int64_t workspace_bytes,
                             std::unique_ptr<BlockSelection>* created);
  BlockSelection(const BlockSelection&) = delete;
  BlockSelection& operator=(const BlockSelection&) = delete;
  ~BlockSelection();

  PrefillKernel kernel() const { return kernel_; }

  // Queues launches, whose number and size follow from what is on the host, and
  // returns; may be captured in a CUDA graph. Writes lists of pairs that have a
  // rule, list_of and order. An error names the argument that is out of range,
  // or the workspace that a rule needs. The same arguments give the same bits.
  LaunchStatus Run(const BlockSelectionArgs& args, CUstream_st* stream) const;

  // Bytes with which Run() has room for these arguments.
  static std::int64_t LeastWorkspace(const BlockSelectionArgs& args);
  std::int64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  BlockSelection(PrefillKernel kernel, int multiprocessors, void* workspace,
                 std::int64_t workspace_bytes)
      : kernel_(kernel),
        multiprocessors_(multiprocessors),
        workspace_(workspace),
        workspace_bytes_(workspace_bytes) {}

  PrefillKernel kernel_;
  int multiprocessors_;
  void* workspace_;
  std::int64_t workspace_bytes_;
};

// What attention then visits.
inline DeviceBlockLists ListsOf(const BlockSelectionArgs& args) {
  DeviceBlockLists lists;
  lists.tiles = args.tiles;
  lists.tile_fields = args.tile_fields;
  lists.list_of = args.chosen.list_of;
  lists.full_offsets = args.chosen.full_offsets;
  lists.full_blocks = args.chosen.full_blocks;
  lists.partial_offsets = args.chosen.partial_offsets;
  lists.partial_blocks = args.chosen.partial_blocks;
  lists.partial_masks = args.chosen.partial_masks;
  lists.order = args.chosen.order;
  return lists;
}

}  // namespace sparseserve::cuda
