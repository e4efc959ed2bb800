#pragma once

// What prefill attention is divided into, on every device.
//
// A work item is a tile of at most 64 queries, a KV head, and some of the query
// heads that share it. Its keys come slot by slot: the partial blocks of the
// list, then the full ones. Where their number is odd, slot 0 is padding, so
// that slots come in pairs and only the first ones need a mask: padding repeats
// slot 1, hidden.

#include <cmath>
#include <cstdint>

#include "engine/backend/cuda/prefill_attention.h"

namespace sparseserve::cuda {

constexpr int kTileRows = 64;
constexpr int kPageRows = 64;

struct WorkItem {
  std::int32_t heads = 0;  // 0: there is no more work
  std::int32_t first_head = 0;
  std::int32_t first_row = 0;
  std::int32_t rows = 0;
  std::int32_t first_position = 0;
  std::int32_t slots = 0;    // even; 0: the list is empty
  std::int32_t padding = 0;  // 1: slot 0 shows nothing
  std::int32_t partial_blocks = 0;
  std::int64_t first_partial = 0;  // into DeviceBlockLists::partial_blocks
  std::int32_t pair = 0;           // tile * kv_heads + kv_head
  float skip_below = -INFINITY;    // BlockLayout's
};

// All that the device needs to know of one launch, beside tensor maps.
struct PrefillWork {
  DeviceBlockLists lists;
  const std::int32_t* page_tables = nullptr;
  std::int64_t page_table_stride = 0;
  std::int32_t heads = 0;
  std::int32_t kv_heads = 0;
  std::int32_t heads_of_item = 1;
  std::int32_t items = 0;
  float scale = 1.0f;
  void* output = nullptr;
  std::int64_t output_stride = 0;
  float* lse = nullptr;
  std::int32_t* skipped = nullptr;
  // [2]: items handed out, and thread blocks that got none any more; zero
  // before and after a launch. Null: thread block i works on item i.
  std::int32_t* counters = nullptr;
};

// REQUIRES: arguments that PrefillAttention::Run() takes.
inline PrefillWork WorkOf(const PrefillAttentionArgs& args, int heads_of_item,
                          std::int32_t* counters) {
  const int group = args.heads / args.kv.kv_heads;
  PrefillWork work;
  work.lists = args.lists;
  work.page_tables = args.kv.page_tables;
  work.page_table_stride = args.kv.page_table_stride;
  work.heads = args.heads;
  work.kv_heads = args.kv.kv_heads;
  work.heads_of_item = heads_of_item;
  work.items = args.lists.tiles * args.kv.kv_heads *
               ((group + heads_of_item - 1) / heads_of_item);
  work.scale = args.scale;
  work.output = args.output;
  work.output_stride = args.output_stride;
  work.lse = args.lse;
  work.skipped = args.skipped;
  work.counters = counters;
  return work;
}

// Which keys of slot `slot` a row of the tile sees, as bits.
__device__ __forceinline__ std::uint64_t VisibleKeys(
    const DeviceBlockLists& lists, const WorkItem& item, int slot, int row) {
  const int entry = slot - item.padding;
  if (entry < 0) return 0;
  if (entry >= item.partial_blocks) return ~std::uint64_t{0};
  const std::int64_t partial = item.first_partial + entry;
  if (lists.partial_masks != nullptr) {
    return __ldg(
        reinterpret_cast<const unsigned long long*>(lists.partial_masks) +
        partial * kTileRows + row);
  }
  const int keys = item.first_position + row + 1 -
                   __ldg(lists.partial_blocks + partial) * kPageRows;
  if (keys <= 0) return 0;
  return keys >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << keys) - 1;
}

// Adds `blocks` that `rows` rows of a query head of the item left out. One
// thread calls.
__device__ __forceinline__ void CountSkipped(const PrefillWork& work,
                                             const WorkItem& item, int blocks,
                                             int rows) {
  if (work.skipped == nullptr || blocks == 0) return;
  atomicAdd(work.skipped + item.pair, blocks * rows);
}

// An item, and where its keys are.
struct PlannedList {
  WorkItem item;
  std::int32_t slice = 0;
  std::int32_t kv_head = 0;
  std::int64_t first_full = 0;
};

__device__ __forceinline__ PlannedList PlanList(const PrefillWork& work,
                                                int index) {
  const int group = work.heads / work.kv_heads;
  const int items_of_group =
      (group + work.heads_of_item - 1) / work.heads_of_item;
  const int pair = index / items_of_group;
  const int head_of_group = index % items_of_group * work.heads_of_item;
  const DeviceBlockLists& lists = work.lists;
  int tile = lists.tiles - 1 - pair % lists.tiles;
  int kv_head = pair / lists.tiles;
  if (lists.order != nullptr) {
    const int chosen = __ldg(lists.order + pair);
    tile = chosen / work.kv_heads;
    kv_head = chosen % work.kv_heads;
  }
  const int4 fields =
      __ldg(reinterpret_cast<const int4*>(lists.tile_fields) + tile);
  const int list = __ldg(lists.list_of + tile * work.kv_heads + kv_head);
  PlannedList planned;
  planned.slice = fields.x;
  planned.kv_head = kv_head;
  planned.first_full = __ldg(lists.full_offsets + list);
  WorkItem& item = planned.item;
  item.heads = min(work.heads_of_item, group - head_of_group);
  item.first_head = kv_head * group + head_of_group;
  item.first_row = fields.y;
  item.rows = fields.z;
  item.first_position = fields.w;
  item.first_partial = __ldg(lists.partial_offsets + list);
  item.partial_blocks = static_cast<int>(
      __ldg(lists.partial_offsets + list + 1) - item.first_partial);
  const int blocks = item.partial_blocks +
                     static_cast<int>(__ldg(lists.full_offsets + list + 1) -
                                      planned.first_full);
  item.pair = tile * work.kv_heads + kv_head;
  if (lists.skip_below != nullptr) {
    item.skip_below = __ldg(lists.skip_below + item.pair);
  }
  item.padding = blocks % 2;
  item.slots = blocks + item.padding;
  return planned;
}

// Of one slot: the first row of its page in the KV matrix.
__device__ __forceinline__ int KvRow(const PrefillWork& work,
                                     const PlannedList& planned, int slot) {
  const WorkItem& item = planned.item;
  if (slot >= item.slots) return 0;
  const int entry = max(slot - item.padding, 0);
  const int block =
      entry < item.partial_blocks
          ? __ldg(work.lists.partial_blocks + item.first_partial + entry)
          : __ldg(work.lists.full_blocks + planned.first_full + entry -
                  item.partial_blocks);
  const int page =
      __ldg(work.page_tables + planned.slice * work.page_table_stride + block);
  return (page * work.kv_heads + planned.kv_head) * kPageRows;
}

}  // namespace sparseserve::cuda
