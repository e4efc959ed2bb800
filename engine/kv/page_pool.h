#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/step.h"

namespace sparseserve {

class PagePool;

// Pages held by one sequence, in position order. Move-only; gives its pages
// back when destroyed. Must not outlive its pool.
class PageLease {
 public:
  PageLease() = default;
  PageLease(PageLease&& other) noexcept;
  PageLease& operator=(PageLease&& other) noexcept;
  ~PageLease();

  absl::Span<const PageId> pages() const { return pages_; }
  int size() const { return static_cast<int>(pages_.size()); }

 private:
  friend class PagePool;
  PagePool* pool_ = nullptr;
  std::vector<PageId> pages_;
};

// Which KV pages are free. Bookkeeping only: the memory is the engine's.
// Owned and used by the serving thread.
class PagePool {
 public:
  explicit PagePool(int pages);  // REQUIRES: pages >= 1

  int total() const { return total_; }
  int free() const { return static_cast<int>(free_.size()); }
  int leased() const { return total_ - free(); }

  // Grows `lease` to `pages` pages; false, with the lease unchanged, if that
  // many are not free. A default-made lease becomes this pool's.
  bool Grow(PageLease& lease, int pages);

  // INTERNAL if free + leased != total or a page has two owners.
  absl::Status CheckInvariants() const;

 private:
  friend class PageLease;
  void Return(std::vector<PageId> pages);

  int total_;
  std::vector<PageId> free_;
  std::vector<bool> is_free_;
};

}  // namespace sparseserve
