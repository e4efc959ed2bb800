#include "engine/kv/kv_cache.h"

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

// Bytes of one layer's keys (or values) in one page.
int64_t PageSideBytes(const KvCache::Shape& shape) {
  return int64_t{shape.kv_heads} * kPageTokens * shape.head_dim *
         BlockBytes(shape.dtype);
}

// Bytes of the bounds of one layer's keys in one page.
int64_t PageBoundBytes(const KvCache::Shape& shape) {
  if (!shape.bounds_keys) return 0;
  return int64_t{shape.kv_heads} * 2 * shape.head_dim * BlockBytes(shape.dtype);
}

}  // namespace

int64_t KvCache::PageBytes(const Shape& shape) {
  return int64_t{shape.layers} *
         (2 * PageSideBytes(shape) + PageBoundBytes(shape));
}

absl::StatusOr<KvCache> KvCache::Create(Backend& backend, const Shape& shape,
                                        int32_t pages) {
  SPARSESERVE_CHECK(pages >= 1);
  SPARSESERVE_CHECK(BlockElements(shape.dtype) == 1);
  ASSIGN_OR_RETURN(Buffer memory, backend.Allocate(PageBytes(shape) * pages));
  return KvCache(shape, pages, std::move(memory));
}

KvLayerView KvCache::Layer(int32_t layer) const {
  SPARSESERVE_DCHECK(layer >= 0 && layer < shape_.layers);
  const int64_t side_bytes = PageSideBytes(shape_) * pages_;
  KvLayerView view;
  view.keys = memory_.data() + layer * 2 * side_bytes;
  view.values = view.keys + side_bytes;
  if (shape_.bounds_keys) {
    view.key_bounds = memory_.data() + shape_.layers * 2 * side_bytes +
                      layer * PageBoundBytes(shape_) * pages_;
  }
  view.dtype = shape_.dtype;
  view.pages = pages_;
  view.kv_heads = shape_.kv_heads;
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
    copy(view.keys, PageSideBytes(shape_));
    copy(view.values, PageSideBytes(shape_));
    if (shape_.bounds_keys) copy(view.key_bounds, PageBoundBytes(shape_));
  }
}

}  // namespace sparseserve
