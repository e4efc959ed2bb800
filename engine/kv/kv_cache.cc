#include "engine/kv/kv_cache.h"

#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

int32_t KvHeadsOf(const KvCache::Shape& shape, int32_t layer) {
  return shape.layer_kv_heads.empty() ? shape.kv_heads
                                      : shape.layer_kv_heads[layer];
}

// Bytes of one head's keys (or values) in one page.
int64_t PageSideBytes(const KvCache::Shape& shape) {
  return int64_t{kPageTokens} * shape.head_dim * BlockBytes(shape.dtype);
}

// Bytes of the bounds of one head's keys in one page.
int64_t PageBoundBytes(const KvCache::Shape& shape) {
  if (!shape.bounds_keys) return 0;
  return int64_t{2} * shape.head_dim * BlockBytes(shape.dtype);
}

}  // namespace

int64_t KvCache::PageBytes(const Shape& shape) {
  int64_t heads = 0;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    heads += KvHeadsOf(shape, layer);
  }
  return heads * (2 * PageSideBytes(shape) + PageBoundBytes(shape));
}

KvCache::KvCache(const Shape& shape, int32_t pages, Buffer memory)
    : shape_(shape), pages_(pages), memory_(std::move(memory)) {
  heads_before_ = {0};
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    heads_before_.push_back(heads_before_.back() + KvHeadsOf(shape, layer));
  }
}

absl::StatusOr<KvCache> KvCache::Create(Backend& backend, const Shape& shape,
                                        int32_t pages) {
  SPARSESERVE_CHECK(pages >= 1);
  SPARSESERVE_CHECK(BlockElements(shape.dtype) == 1);
  ASSIGN_OR_RETURN(Buffer memory, backend.Allocate(PageBytes(shape) * pages));
  return KvCache(shape, pages, std::move(memory));
}

int64_t KvCache::bounds_bytes() const {
  return heads_before_.back() * PageBoundBytes(shape_) * pages_;
}

KvLayerView KvCache::Layer(int32_t layer) const {
  SPARSESERVE_DCHECK(layer >= 0 && layer < shape_.layers);
  const int64_t side_bytes = PageSideBytes(shape_) * pages_;
  const int64_t before = heads_before_[layer];
  KvLayerView view;
  view.kv_heads = KvHeadsOf(shape_, layer);
  view.keys = memory_.data() + before * 2 * side_bytes;
  view.values = view.keys + view.kv_heads * side_bytes;
  if (shape_.bounds_keys) {
    view.key_bounds = memory_.data() + heads_before_.back() * 2 * side_bytes +
                      before * PageBoundBytes(shape_) * pages_;
  }
  view.dtype = shape_.dtype;
  view.pages = pages_;
  view.head_dim = shape_.head_dim;
  return view;
}

void KvCache::CopyPage(PageId from, PageId to, Backend& backend) const {
  SPARSESERVE_CHECK(from >= 0 && from < pages_ && to >= 0 && to < pages_ &&
                    from != to);
  const auto copy = [&](std::byte* side, int64_t bytes) {
    backend.Copy(side + from * bytes, bytes, side + to * bytes);
  };
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    const KvLayerView view = Layer(layer);
    if (view.kv_heads == 0) continue;
    copy(view.keys, view.kv_heads * PageSideBytes(shape_));
    copy(view.values, view.kv_heads * PageSideBytes(shape_));
    if (shape_.bounds_keys) {
      copy(view.key_bounds, view.kv_heads * PageBoundBytes(shape_));
    }
  }
}

}  // namespace sparseserve
