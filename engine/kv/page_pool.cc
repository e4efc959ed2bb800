#include "engine/kv/page_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

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

PagePool::PagePool(int pages) : total_(pages) {
  SPARSESERVE_CHECK(pages >= 1);
  free_.reserve(pages);
  // The back is handed out first, so ascending ids come out.
  for (PageId page = pages - 1; page >= 0; --page) free_.push_back(page);
  is_free_.assign(pages, true);
}

bool PagePool::Grow(PageLease& lease, int pages) {
  SPARSESERVE_CHECK(lease.pool_ == nullptr || lease.pool_ == this);
  const int wanted = pages - lease.size();
  if (wanted > free()) return false;
  lease.pool_ = this;
  for (int i = 0; i < wanted; ++i) {
    const PageId page = free_.back();
    free_.pop_back();
    is_free_[page] = false;
    lease.pages_.push_back(page);
  }
  return true;
}

void PagePool::Return(std::vector<PageId> pages) {
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
    SPARSESERVE_CHECK(!is_free_[*page]);
    is_free_[*page] = true;
    free_.push_back(*page);
  }
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
  for (PageId page = 0; page < total_; ++page) {
    if (is_free_[page] != listed[page]) {
      return absl::InternalError(
          absl::StrCat("page ", page, " is neither free nor leased"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
