#pragma once

// What all selections for prompt tiles refuse alike.

#include <cstdint>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/block_selection.h"

namespace sparseserve::cuda {

inline LaunchStatus CheckSelection(const BlockSelectionArgs& args) {
  if (auto status = CheckHeads(args.kv, args.heads); !status.ok()) {
    return status;
  }
  if (auto status = CheckStride("query_stride", args.query_stride,
                                std::int64_t{args.heads} * args.kv.head_dim);
      !status.ok()) {
    return status;
  }
  if (auto status = CheckScale(args.scale); !status.ok()) return status;
  if (args.tiles < 0 || args.tiles > 1 << 20) {
    return OutOfRange("tiles", args.tiles, "0 to 2^20");
  }
  if (args.slices < 1 || args.slices > 65535) {
    return OutOfRange("slices", args.slices, "1 to 65535");
  }
  if (args.most_blocks < 1 || args.most_blocks > BlockSelection::kMostBlocks) {
    return OutOfRange("most_blocks", args.most_blocks, "1 to 8192");
  }
  return CheckAligned("queries, keys and tile_fields",
                      {args.queries, args.kv.keys, args.tile_fields});
}

}  // namespace sparseserve::cuda
