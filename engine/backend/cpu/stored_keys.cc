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
                      std::vector<float>& keys) const {
  const int32_t head_dim = args_.kv.head_dim;
  const std::byte* from = Of(block);
  keys.assign(kPageTokens * stride, 0.0f);
  for (int32_t r = 0; r < rows; ++r) {
    float* to = keys.data() + r * stride;
    if (args_.kv.dtype == DType::kBF16) {
      const auto* stored =
          reinterpret_cast<const uint16_t*>(from) + int64_t{r} * head_dim;
      std::transform(stored, stored + head_dim, to, BFloat16ToFloat);
    } else {
      const auto* stored =
          reinterpret_cast<const float*>(from) + int64_t{r} * head_dim;
      std::copy(stored, stored + head_dim, to);
    }
  }
}

StoredKeys::Rows StoredKeys::Padded(int32_t block, int32_t rows,
                                    std::vector<float>& scratch) const {
  const int64_t depth = PaddedDepth(args_.kv.head_dim);
  if (rows == kPageTokens && depth == args_.kv.head_dim) {
    return {Of(block), args_.kv.dtype};
  }
  Copy(block, rows, depth, scratch);
  return {reinterpret_cast<const std::byte*>(scratch.data()), DType::kF32};
}

}  // namespace sparseserve::cpu
