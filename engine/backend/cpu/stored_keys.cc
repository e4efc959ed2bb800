#include "engine/backend/cpu/stored_keys.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve::cpu {

const std::byte* StoredKeys::Of(int32_t block) const {
  const KvLayerView& kv = args_.kv;
  const absl::Span<const PageId> pages = args_.pages[slice_];
  SPARSESERVE_CHECK(block < static_cast<int64_t>(pages.size()));
  const PageId page = pages[block];
  SPARSESERVE_CHECK(page >= 0 && page < kv.pages);
  return kv.keys + (int64_t{page} * kv.kv_heads + kv_head_) * kPageTokens *
                       kv.head_dim * BlockBytes(kv.dtype);
}

void StoredKeys::Copy(int32_t block, int32_t rows, int64_t stride,
                      std::vector<std::byte>& keys) const {
  const int64_t element = BlockBytes(args_.kv.dtype);
  const int64_t stored = args_.kv.head_dim * element;
  const std::byte* from = Of(block);
  keys.assign(kPageTokens * stride * element, std::byte{0});
  for (int32_t r = 0; r < rows; ++r, from += stored) {
    std::copy_n(from, stored, keys.data() + r * stride * element);
  }
}

const std::byte* StoredKeys::Padded(int32_t block, int32_t rows,
                                    std::vector<std::byte>& scratch) const {
  if (rows == kPageTokens && ArePadded()) return Of(block);
  Copy(block, rows, PaddedDepth(args_.kv.head_dim), scratch);
  return scratch.data();
}

}  // namespace sparseserve::cpu
