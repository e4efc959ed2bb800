#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/step.h"
#include "engine/tensor/buffer.h"
#include "engine/tensor/dtype.h"

namespace sparseserve {

// The memory of all KV pages of all layers, in one block on the device. Which
// page belongs to whom is PagePool's business. Used by the serving thread.
class KvCache {
 public:
  struct Shape {
    int32_t layers = 0;
    int32_t kv_heads = 0;
    // [layers]: of layers that have fewer; empty if none has.
    std::vector<int32_t> layer_kv_heads;
    int32_t head_dim = 0;
    DType dtype = DType::kF32;
    // Whether bounds of every page's keys are kept, of which some patterns
    // choose: 1 / kPageTokens of what keys and values take.
    bool bounds_keys = false;
  };

  // Keys and values of kPageTokens tokens over all layers, and their bounds.
  static int64_t PageBytes(const Shape& shape);

  // RESOURCE_EXHAUSTED if the device lacks the memory. REQUIRES: pages >= 1.
  static absl::StatusOr<KvCache> Create(Backend& backend, const Shape& shape,
                                        int32_t pages);

  KvLayerView Layer(int32_t layer) const;
  // All layers' keys, values and bounds of one page go to another; not during
  // a step. REQUIRES: two pages of 0 ... pages() - 1 that differ.
  void CopyPage(PageId from, PageId to, Backend& backend) const;
  int32_t pages() const { return pages_; }
  int64_t bytes() const { return memory_.bytes(); }
  int64_t bounds_bytes() const;  // of these, 0 if none are kept

 private:
  KvCache(const Shape& shape, int32_t pages, Buffer memory);

  Shape shape_;
  int32_t pages_;
  // [layers][keys, values][pages][kv_heads][kPageTokens][head_dim], then
  // [layers][pages][kv_heads][greatest, least][head_dim] if bounds are kept.
  Buffer memory_;
  std::vector<int64_t> heads_before_;  // [layers + 1]: of the layers before
};

}  // namespace sparseserve
