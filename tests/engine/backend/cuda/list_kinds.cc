#include "tests/engine/backend/cuda/list_kinds.h"

#include <algorithm>
#include <numeric>

namespace sparseserve::cuda {
namespace {

// A word for every row of the tile: any keys that causality shows, or none.
void AddMask(const std::int32_t* tile, int block, std::mt19937& random,
             HostLists& lists) {
  for (int row = 0; row < 64; ++row) {
    std::uint64_t word = (std::uint64_t{random()} << 32) | random();
    const int keys = tile[3] + row + 1 - block * 64;
    if (keys <= 0 || row >= tile[2] || random() % 8 == 0) word = 0;
    if (keys > 0 && keys < 64) word &= (std::uint64_t{1} << keys) - 1;
    lists.partial_masks.push_back(word);
  }
}

void AddList(ListKind kind, const std::int32_t* tile, std::mt19937& random,
             HostLists& lists) {
  const int diagonal = tile[3] / 64;
  for (int block = 0; block < diagonal; ++block) {
    if (kind == ListKind::kDiagonal) continue;
    if (kind != ListKind::kDense && random() % 3 != 0) continue;
    if (kind == ListKind::kMasked && random() % 2 == 0) {
      lists.partial_blocks.push_back(block);
      AddMask(tile, block, random, lists);
    } else {
      lists.full_blocks.push_back(block);
    }
  }
  if (kind != ListKind::kWithoutSelf) {
    lists.partial_blocks.push_back(diagonal);
    if (kind == ListKind::kMasked) AddMask(tile, diagonal, random, lists);
  }
}

}  // namespace

const char* NameOf(ListKind kind) {
  switch (kind) {
    case ListKind::kDense:
      return "dense";
    case ListKind::kRandom:
      return "random";
    case ListKind::kDiagonal:
      return "diagonal";
    case ListKind::kWithoutSelf:
      return "without self";
    case ListKind::kMasked:
      return "masked";
  }
  return "unknown";
}

void FillLists(ListKind kind, std::mt19937& random, HostBatch& batch) {
  HostLists& lists = batch.lists;
  for (int tile = 0; tile < lists.tiles(); ++tile) {
    for (int head = 0; head < batch.shape.kv_heads; ++head) {
      if (kind == ListKind::kDense && head > 0) {
        lists.list_of.push_back(lists.list_of.back());
        continue;
      }
      AddList(kind, &lists.tile_fields[tile * 4], random, lists);
      lists.list_of.push_back(lists.EndList());
    }
  }
}

void OrderByLength(HostBatch& batch) {
  HostLists& lists = batch.lists;
  const int kv_heads = batch.shape.kv_heads;
  const auto length = [&](std::int32_t pair) {
    const int list = lists.list_of[pair];
    return lists.full_offsets[list + 1] - lists.full_offsets[list] +
           lists.partial_offsets[list + 1] - lists.partial_offsets[list];
  };
  lists.order.resize(lists.list_of.size());
  std::iota(lists.order.begin(), lists.order.end(), 0);
  std::stable_sort(lists.order.begin(), lists.order.end(),
                   [&](std::int32_t a, std::int32_t b) {
                     if (a % kv_heads != b % kv_heads) {
                       return a % kv_heads < b % kv_heads;
                     }
                     return length(a) > length(b);
                   });
}

}  // namespace sparseserve::cuda
