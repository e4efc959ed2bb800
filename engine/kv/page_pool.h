#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/kv/prefix_index.h"
#include "engine/step.h"

namespace sparseserve {

class PagePool;

// Pages held by one sequence, in position order. The first ones may be others'
// too, to be read alone. Move-only; gives its pages back when destroyed. Must
// not outlive its pool.
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

// Who has which KV page: each is free, leased by one sequence or several, or
// cached, which is leased by none but kept in the prefix index for those that
// begin with the same tokens. Bookkeeping only: the memory is the engine's.
// Owned and used by the serving thread.
class PagePool {
 public:
  // REQUIRES: pages >= 1
  explicit PagePool(int pages, PrefixIndex::Options index = {});

  int total() const { return total_; }
  int free() const { return static_cast<int>(free_.size()); }
  // Cached pages that give way when no page is free.
  int cached() const { return cached_; }
  int leased() const { return total_ - free() - cached(); }
  // Leases that hold the page.
  int owners(PageId page) const { return owners_[page]; }
  int64_t evicted() const { return evicted_; }
  const PrefixIndex& index() const { return index_; }

  // Grows `lease` to `pages` pages, of its own: free ones, then cached ones,
  // which are evicted. False, with nothing changed, if these are too few. A
  // default-made lease becomes this pool's.
  bool Grow(PageLease& lease, int pages);

  // Begins an empty lease with pages that are leased or cached: those that
  // index().Find() gave, or the first ones of another lease. They are not to be
  // written as long as they have other owners or are in the index.
  void Share(PageLease& lease, absl::Span<const PageId> pages);

  // Puts a page of the lease, number `number`, into the index once it holds the
  // keys and values of `tokens`, kPageTokens of them. False if it is not there
  // afterwards: the page before it is not, or another page stands for the same.
  // Of pure pages the lease then has that one instead, and it is true.
  // REQUIRES: the lease alone has the page, and it is not in the index.
  bool Enter(PageLease& lease, int number, absl::string_view space,
             absl::Span<const TokenId> tokens, const PageOrigin& own);

  // Takes a page out of the index with all that are behind it, or those that a
  // plan wrote (O(total())): nobody finds them any more; who has them leased
  // keeps them.
  void Forget(PageId page);
  void ForgetPlan(int32_t plan);

  // INTERNAL names what is broken: free + leased + cached != total, a page that
  // is free and has an owner or is in the index, one that is none of these.
  absl::Status CheckInvariants() const;

 private:
  friend class PageLease;
  void Return(std::vector<PageId> pages);
  void AddOwner(PageId page);
  void DropOwner(PageId page);
  void Free(PageId page);
  void FreeUnowned(const std::vector<PageId>& pages);

  int total_;
  int cached_ = 0;
  int64_t evicted_ = 0;
  std::vector<PageId> free_;
  std::vector<bool> is_free_;
  std::vector<int32_t> owners_;
  PrefixIndex index_;
};

}  // namespace sparseserve
