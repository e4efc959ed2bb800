#include "engine/kv/page_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve {

PageLease::PageLease(PageLease&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      pages_(std::exchange(other.pages_, {})) {}

PageLease& PageLease::operator=(PageLease&& other) noexcept {
  // The temporary takes what this lease held and gives it back.
  PageLease taken(std::move(other));
  std::swap(pool_, taken.pool_);
  std::swap(pages_, taken.pages_);
  return *this;
}

PageLease::~PageLease() {
  if (pool_ != nullptr) pool_->Return(std::move(pages_));
}

PagePool::PagePool(int pages, PrefixIndex::Options index)
    : total_(pages), index_(pages, std::move(index)) {
  SPARSESERVE_CHECK(pages >= 1);
  free_.reserve(pages);
  // The back is handed out first, so ascending ids come out.
  for (PageId page = pages - 1; page >= 0; --page) free_.push_back(page);
  is_free_.assign(pages, true);
  owners_.assign(pages, 0);
}

bool PagePool::Grow(PageLease& lease, int pages) {
  SPARSESERVE_CHECK(lease.pool_ == nullptr || lease.pool_ == this);
  const int wanted = pages - lease.size();
  if (wanted > free() + cached()) return false;
  lease.pool_ = this;
  for (int i = 0; i < wanted; ++i) {
    if (free_.empty()) {
      Free(index_.Evict());
      --cached_;
      ++evicted_;
    }
    const PageId page = free_.back();
    free_.pop_back();
    is_free_[page] = false;
    AddOwner(page);
    lease.pages_.push_back(page);
  }
  return true;
}

void PagePool::Share(PageLease& lease, absl::Span<const PageId> pages) {
  SPARSESERVE_CHECK(lease.pool_ == nullptr || lease.pool_ == this);
  SPARSESERVE_CHECK(lease.pages_.empty());
  lease.pool_ = this;
  for (const PageId page : pages) {
    SPARSESERVE_CHECK(!is_free_[page]);
    if (owners_[page] == 0) --cached_;
    AddOwner(page);
    lease.pages_.push_back(page);
  }
}

bool PagePool::Enter(PageLease& lease, int number, absl::string_view space,
                     absl::Span<const TokenId> tokens, const PageOrigin& own) {
  SPARSESERVE_CHECK(lease.pool_ == this && number < lease.size());
  const PageId page = lease.pages_[number];
  SPARSESERVE_CHECK(owners_[page] == 1);
  PageId previous = PrefixIndex::kNone;
  if (number > 0) {
    previous = lease.pages_[number - 1];
    if (!index_.contains(previous)) return false;
  }
  const PageId same = index_.Enter(page, space, previous, tokens, own);
  if (same == PrefixIndex::kNone) return true;
  if (!index_.origin(same).is_pure) return false;
  if (owners_[same] == 0) --cached_;
  AddOwner(same);
  lease.pages_[number] = same;
  DropOwner(page);
  return true;
}

void PagePool::Forget(PageId page) {
  if (!index_.contains(page)) return;
  std::vector<PageId> unowned;
  index_.Remove(page, unowned);
  FreeUnowned(unowned);
}

void PagePool::ForgetPlan(int32_t plan) {
  std::vector<PageId> unowned;
  index_.RemovePlan(plan, unowned);
  FreeUnowned(unowned);
}

void PagePool::Return(std::vector<PageId> pages) {
  // From the back: a page in the index is leased as long as one behind it is.
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
    DropOwner(*page);
  }
}

void PagePool::AddOwner(PageId page) {
  if (owners_[page]++ == 0) index_.SetLeased(page, true);
}

void PagePool::DropOwner(PageId page) {
  SPARSESERVE_CHECK(owners_[page] > 0);
  if (--owners_[page] > 0) return;
  index_.SetLeased(page, false);
  if (index_.contains(page)) {
    ++cached_;
  } else {
    Free(page);
  }
}

void PagePool::Free(PageId page) {
  SPARSESERVE_CHECK(!is_free_[page]);
  is_free_[page] = true;
  free_.push_back(page);
}

void PagePool::FreeUnowned(const std::vector<PageId>& pages) {
  for (const PageId page : pages) Free(page);
  cached_ -= static_cast<int>(pages.size());
}

absl::Status PagePool::CheckInvariants() const {
  std::vector<bool> listed(total_, false);
  for (const PageId page : free_) {
    if (page < 0 || page >= total_ || listed[page] || !is_free_[page]) {
      return absl::InternalError(
          absl::StrCat("page ", page,
                       " is on the free list more than once or while leased"));
    }
    listed[page] = true;
  }
  int cached = 0;
  for (PageId page = 0; page < total_; ++page) {
    const bool is_kept = owners_[page] > 0 || index_.contains(page);
    if (is_free_[page] != listed[page] || is_free_[page] == is_kept) {
      return absl::InternalError(absl::StrCat(
          "page ", page, " has ", owners_[page], " owners, is ",
          index_.contains(page) ? "" : "not ", "in the prefix index, and is ",
          listed[page] ? "" : "not ", "on the free list"));
    }
    if (owners_[page] == 0 && index_.contains(page)) ++cached;
  }
  if (cached != cached_) {
    return absl::InternalError(absl::StrCat(cached, " pages are cached, ",
                                            cached_, " are counted as such"));
  }
  return index_.CheckInvariants();
}

}  // namespace sparseserve
