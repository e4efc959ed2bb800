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

  // Copies the first `rows` keys of a block to `keys`, of kv.dtype, `stride`
  // elements each, zeros behind their own; then zeros to the block's end: what
  // lies there is anything, where no key is stored yet.
  void Copy(int32_t block, int32_t rows, int64_t stride,
            std::vector<std::byte>& keys) const;

  // The first `rows` keys of a block as rows of PaddedDepth() elements of
  // kv.dtype, [kPageTokens, PaddedDepth()]: those stored, or a copy in
  // `scratch`.
  const std::byte* Padded(int32_t block, int32_t rows,
                          std::vector<std::byte>& scratch) const;
  // Whether Padded() gives whole blocks as they are stored.
  bool ArePadded() const {
    return PaddedDepth(args_.kv.head_dim) == args_.kv.head_dim;
  }

 private:
  const SelectArgs& args_;
  const int32_t slice_;
  const int32_t kv_head_;
};

}  // namespace sparseserve::cpu
