#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/tensor/dtype.h"

namespace sparseserve::cpu {

// Operands of RowProducts are rows of whole vectors: a head dimension that is
// none is padded with zeros.
inline int64_t PaddedDepth(int32_t head_dim) {
  return (int64_t{head_dim} + 15) / 16 * 16;
}

// One KV head's keys of a slice, by block. Borrows `args`.
class StoredKeys {
 public:
  StoredKeys(const SelectArgs& args, int32_t slice, int32_t kv_head)
      : args_(args), slice_(slice), kv_head_(kv_head) {}

  // [kPageTokens, head_dim] of kv.dtype. REQUIRES: the slice has the page.
  const std::byte* Of(int32_t block) const;

  // The first `rows` keys of a block as floats, `stride` elements each, zeros
  // behind their own; then zeros to the block's end: what lies there is
  // anything, where no key is stored yet.
  void Copy(int32_t block, int32_t rows, int64_t stride,
            std::vector<float>& keys) const;

  // The first `rows` keys of a block as rows of PaddedDepth() elements: those
  // stored, or a copy in `scratch`.
  struct Rows {
    const std::byte* data = nullptr;  // [kPageTokens, PaddedDepth()]
    DType dtype = DType::kF32;
  };
  Rows Padded(int32_t block, int32_t rows, std::vector<float>& scratch) const;

 private:
  const SelectArgs& args_;
  const int32_t slice_;
  const int32_t kv_head_;
};

}  // namespace sparseserve::cpu
