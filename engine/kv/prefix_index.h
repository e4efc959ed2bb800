#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/kv/page_origin.h"
#include "engine/step.h"

namespace sparseserve {

// Which pages hold the keys and values of which tokens: a tree of full pages,
// each behind the page of the tokens before its own. What two pages have in
// common is looked for by a hash and then compared token by token, so pages are
// found by what they hold alone, and within the space that they were entered
// in: whose names keep models and callers apart. Bookkeeping only; PagePool
// says who leases a page, and is the only one to change an index. Costs are for
// each page that a call is about: a hash of its tokens, and O(log pages) where
// its place in the order of eviction changes.
class PrefixIndex {
 public:
  struct Options {
    // What a page costs to compute anew is 1 for its own products and so much
    // for each page before it, that its rows attend to.
    double preceding_page_cost = 0.02;
    // Of the predecessor's key and the page's tokens; empty: a hash whose seed
    // differs from one process to the next. Tests have them collide.
    std::function<uint64_t(int64_t before, absl::Span<const TokenId> tokens)>
        hash = nullptr;
  };
  // REQUIRES: pages >= 1.
  PrefixIndex(int pages, Options options);

  // What a request may read.
  struct Wanted {
    QualityClass quality = QualityClass::kExact;  // or better
    // Only pages that are what this plan's prompt rows alone make of them.
    bool is_pure = false;
    int32_t plan = 0;
  };
  // Pages that hold the beginning of a prompt, in order.
  struct Run {
    std::vector<PageId> pages;
    bool is_pure = true;  // of the plan that was asked for
  };
  // The longest run for `tokens`, of which the last ones may not fill a page;
  // of several as long the purest, then the best.
  Run Find(absl::string_view space, absl::Span<const TokenId> tokens,
           const Wanted& wanted) const;

  bool contains(PageId page) const { return entries_[page].is_entered; }
  // Of the page and all before it. REQUIRES: contains(page).
  const PageOrigin& origin(PageId page) const { return entries_[page].origin; }
  int entered() const { return entered_; }

  // INTERNAL names what is broken. O(pages).
  absl::Status CheckInvariants() const;

 private:
  friend class PagePool;
  static constexpr PageId kNone = -1;
  // A look-up follows so many runs at a time that hold the same tokens.
  static constexpr size_t kMostRuns = 8;

  struct Entry {
    std::array<TokenId, kPageTokens> tokens = {};
    PageOrigin origin;
    bool is_entered = false;
    bool is_leased = false;
    // The page before, or -1 - space where there is none.
    int64_t before = 0;
    int32_t depth = 0;  // pages before it
    uint64_t hash = 0;
    PageId next_same_hash = kNone;
    // Pages behind it, as a list of siblings.
    PageId first_child = kNone;
    PageId next_sibling = kNone;
    PageId previous_sibling = kNone;
    // When nobody leased it any more; what is least goes first.
    double worth = 0;
    uint64_t last_use = 0;
  };
  struct Space {
    std::string name;
    int roots = 0;
  };

  // The page that already stands for this, or kNone after `page` was entered.
  // `previous` is the page before it, or kNone where it begins a prompt; `own`
  // says who wrote it. REQUIRES: `page` is leased and not entered, `previous`
  // is leased and entered.
  PageId Enter(PageId page, absl::string_view space, PageId previous,
               absl::Span<const TokenId> tokens, const PageOrigin& own);
  void SetLeased(PageId page, bool is_leased);
  // Takes out the page that is worth least among those that nobody leases and
  // that none is behind. REQUIRES: there is an entered page without a lease.
  PageId Evict();
  // Takes out `page` and what is behind it; adds the pages that nobody leases
  // to `unowned`.
  void Remove(PageId page, std::vector<PageId>& unowned);
  // Likewise for each page that `plan` wrote. O(pages).
  void RemovePlan(int32_t plan, std::vector<PageId>& unowned);

  uint64_t Hash(int64_t before, absl::Span<const TokenId> tokens) const;
  bool Holds(PageId page, int64_t before,
             absl::Span<const TokenId> tokens) const;
  // Calls `visit` with each page that holds the tokens behind `before`.
  template <typename Visit>
  void ForEach(int64_t before, absl::Span<const TokenId> tokens,
               const Visit& visit) const;
  int64_t SpaceKey(absl::string_view space);
  void TakeOut(PageId page);
  void Unlink(PageId page);
  bool IsEvictable(const Entry& entry) const {
    return entry.is_entered && !entry.is_leased && entry.first_child == kNone;
  }
  void UpdateOrder(PageId page, bool was_evictable);

  const Options options_;
  std::vector<Entry> entries_;  // by page
  int entered_ = 0;
  absl::flat_hash_map<uint64_t, PageId> by_hash_;  // first of those
  std::vector<Space> spaces_;
  std::vector<int32_t> unused_spaces_;
  absl::flat_hash_map<std::string, int32_t> space_of_;
  // (worth, last use, page) of those that may be evicted.
  struct Place {
    double worth;
    uint64_t last_use;
    PageId page;
    friend bool operator<(const Place& a, const Place& b) {
      return std::tie(a.worth, a.last_use, a.page) <
             std::tie(b.worth, b.last_use, b.page);
    }
  };
  absl::btree_set<Place> order_;
  double clock_ = 0;  // the worth of what was evicted last
  uint64_t uses_ = 0;
};

}  // namespace sparseserve
