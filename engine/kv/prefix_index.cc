#include "engine/kv/prefix_index.h"

#include <algorithm>
#include <tuple>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace sparseserve {
namespace {

bool MayRead(const PrefixIndex::Wanted& wanted, const PageOrigin& origin) {
  if (origin.quality > wanted.quality) return false;
  return !wanted.is_pure || (origin.is_pure && origin.plan == wanted.plan);
}

// Less is better, of runs that are as long.
std::pair<bool, QualityClass> Preference(const PrefixIndex::Wanted& wanted,
                                         const PageOrigin& origin) {
  const bool is_pure = origin.is_pure && origin.plan == wanted.plan;
  return {!is_pure, origin.quality};
}

}  // namespace

PrefixIndex::PrefixIndex(int pages, Options options)
    : options_(std::move(options)), entries_(pages) {
  SPARSESERVE_CHECK(pages >= 1);
}

uint64_t PrefixIndex::Hash(int64_t before,
                           absl::Span<const TokenId> tokens) const {
  if (options_.hash) return options_.hash(before, tokens);
  return absl::HashOf(before, tokens);
}

bool PrefixIndex::Holds(PageId page, int64_t before,
                        absl::Span<const TokenId> tokens) const {
  const Entry& entry = entries_[page];
  return entry.before == before &&
         std::equal(tokens.begin(), tokens.end(), entry.tokens.begin());
}

template <typename Visit>
void PrefixIndex::ForEach(int64_t before, absl::Span<const TokenId> tokens,
                          const Visit& visit) const {
  const auto found = by_hash_.find(Hash(before, tokens));
  if (found == by_hash_.end()) return;
  for (PageId page = found->second; page != kNone;
       page = entries_[page].next_same_hash) {
    if (Holds(page, before, tokens)) visit(page);
  }
}

PrefixIndex::Run PrefixIndex::Find(absl::string_view space,
                                   absl::Span<const TokenId> tokens,
                                   const Wanted& wanted) const {
  const auto known = space_of_.find(space);
  if (known == space_of_.end()) return {};
  // The last pages of all runs that reach so far; the first is the preferred.
  std::vector<PageId> ends;
  std::vector<PageId> longer;
  const int pages = static_cast<int>(tokens.size()) / kPageTokens;
  for (int i = 0; i < pages; ++i) {
    longer.clear();
    const auto follow = [&](int64_t before) {
      ForEach(before, tokens.subspan(int64_t{i} * kPageTokens, kPageTokens),
              [&](PageId page) {
                if (MayRead(wanted, origin(page)) && longer.size() < kMostRuns)
                  longer.push_back(page);
              });
    };
    if (i == 0) follow(-1 - int64_t{known->second});
    for (const PageId end : ends) follow(end);
    if (longer.empty()) break;
    std::stable_sort(longer.begin(), longer.end(), [&](PageId a, PageId b) {
      return Preference(wanted, origin(a)) < Preference(wanted, origin(b));
    });
    ends.swap(longer);
  }
  if (ends.empty()) return {};
  Run run;
  run.is_pure = !Preference(wanted, origin(ends[0])).first;
  for (int64_t page = ends[0]; page >= 0; page = entries_[page].before) {
    run.pages.push_back(static_cast<PageId>(page));
  }
  std::reverse(run.pages.begin(), run.pages.end());
  return run;
}

int64_t PrefixIndex::SpaceKey(absl::string_view name) {
  const auto known = space_of_.find(name);
  if (known != space_of_.end()) return -1 - int64_t{known->second};
  int32_t space = static_cast<int32_t>(spaces_.size());
  if (unused_spaces_.empty()) {
    spaces_.emplace_back();
  } else {
    space = unused_spaces_.back();
    unused_spaces_.pop_back();
  }
  spaces_[space] = {std::string(name), 0};
  space_of_[spaces_[space].name] = space;
  return -1 - int64_t{space};
}

PageId PrefixIndex::Enter(PageId page, absl::string_view space, PageId previous,
                          absl::Span<const TokenId> tokens,
                          const PageOrigin& own) {
  SPARSESERVE_CHECK(tokens.size() == size_t{kPageTokens});
  Entry& entry = entries_[page];
  SPARSESERVE_CHECK(!entry.is_entered && entry.is_leased);
  PageOrigin origin = own;
  if (previous != kNone) {
    SPARSESERVE_CHECK(entries_[previous].is_entered &&
                      entries_[previous].is_leased);
    origin = Behind(entries_[previous].origin, own);
  }
  const int64_t before = previous == kNone ? SpaceKey(space) : previous;
  PageId same = kNone;
  ForEach(before, tokens, [&](PageId other) {
    if (entries_[other].origin == origin) same = other;
  });
  if (same != kNone) return same;

  std::copy(tokens.begin(), tokens.end(), entry.tokens.begin());
  entry.origin = origin;
  entry.is_entered = true;
  entry.before = before;
  entry.depth = previous == kNone ? 0 : entries_[previous].depth + 1;
  entry.hash = Hash(before, tokens);
  entry.first_child = kNone;
  const auto [bucket, is_new] = by_hash_.try_emplace(entry.hash, page);
  entry.next_same_hash = is_new ? kNone : bucket->second;
  bucket->second = page;
  entry.next_sibling = kNone;
  entry.previous_sibling = kNone;
  if (previous == kNone) {
    ++spaces_[-1 - before].roots;
  } else {
    // Leased, so not in the order of eviction.
    Entry& parent = entries_[previous];
    entry.next_sibling = parent.first_child;
    if (parent.first_child != kNone) {
      entries_[parent.first_child].previous_sibling = page;
    }
    parent.first_child = page;
  }
  ++entered_;
  return kNone;
}

void PrefixIndex::UpdateOrder(PageId page, bool was_evictable) {
  const Entry& entry = entries_[page];
  const bool is_evictable = IsEvictable(entry);
  if (is_evictable == was_evictable) return;
  const Place place = {entry.worth, entry.last_use, page};
  if (is_evictable) {
    order_.insert(place);
  } else {
    order_.erase(place);
  }
}

void PrefixIndex::SetLeased(PageId page, bool is_leased) {
  Entry& entry = entries_[page];
  const bool was_evictable = IsEvictable(entry);
  entry.is_leased = is_leased;
  if (is_leased) {
    UpdateOrder(page, was_evictable);
    return;
  }
  // GreedyDual (Young, 1994): what a page costs, on top of what the page cost
  // that was evicted last. So it is least recently used first among pages of
  // the same cost, and dearer ones outlive others for as long as that is.
  entry.worth = clock_ + 1 + options_.preceding_page_cost * entry.depth;
  entry.last_use = ++uses_;
  UpdateOrder(page, was_evictable);
}

PageId PrefixIndex::Evict() {
  SPARSESERVE_CHECK(!order_.empty());
  const Place least = *order_.begin();
  clock_ = std::max(clock_, least.worth);
  TakeOut(least.page);
  return least.page;
}

void PrefixIndex::Unlink(PageId page) {
  Entry& entry = entries_[page];
  const auto bucket = by_hash_.find(entry.hash);
  if (bucket->second == page && entry.next_same_hash == kNone) {
    by_hash_.erase(bucket);
  } else {
    PageId* link = &bucket->second;
    while (*link != page) link = &entries_[*link].next_same_hash;
    *link = entry.next_same_hash;
  }
  if (entry.next_sibling != kNone) {
    entries_[entry.next_sibling].previous_sibling = entry.previous_sibling;
  }
  if (entry.previous_sibling != kNone) {
    entries_[entry.previous_sibling].next_sibling = entry.next_sibling;
  }
}

// Of a page that none is behind.
void PrefixIndex::TakeOut(PageId page) {
  Entry& entry = entries_[page];
  SPARSESERVE_CHECK(entry.is_entered && entry.first_child == kNone);
  const bool was_evictable = IsEvictable(entry);
  Unlink(page);
  if (entry.before < 0) {
    const int32_t space = static_cast<int32_t>(-1 - entry.before);
    if (--spaces_[space].roots == 0) {
      space_of_.erase(spaces_[space].name);
      spaces_[space].name.clear();
      unused_spaces_.push_back(space);
    }
  } else {
    const PageId previous = static_cast<PageId>(entry.before);
    Entry& parent = entries_[previous];
    const bool parent_was_evictable = IsEvictable(parent);
    if (parent.first_child == page) parent.first_child = entry.next_sibling;
    UpdateOrder(previous, parent_was_evictable);
  }
  entry.is_entered = false;
  UpdateOrder(page, was_evictable);
  --entered_;
}

void PrefixIndex::Remove(PageId page, std::vector<PageId>& unowned) {
  // Down to the last page of a branch, take it out, and up again.
  PageId at = page;
  while (true) {
    while (entries_[at].first_child != kNone) at = entries_[at].first_child;
    const int64_t before = entries_[at].before;
    TakeOut(at);
    if (!entries_[at].is_leased) unowned.push_back(at);
    if (at == page) return;
    at = static_cast<PageId>(before);
  }
}

void PrefixIndex::RemovePlan(int32_t plan, std::vector<PageId>& unowned) {
  for (size_t page = 0; page < entries_.size(); ++page) {
    const Entry& entry = entries_[page];
    if (entry.is_entered && entry.origin.plan == plan) {
      Remove(static_cast<PageId>(page), unowned);
    }
  }
}

absl::Status PrefixIndex::CheckInvariants() const {
  const auto broken = [](PageId page, absl::string_view what) {
    return absl::InternalError(
        absl::StrCat("page ", page, " of the prefix index ", what));
  };
  int entered = 0;
  size_t evictable = 0;
  std::vector<int> roots(spaces_.size());
  for (PageId page = 0; page < static_cast<PageId>(entries_.size()); ++page) {
    const Entry& entry = entries_[page];
    if (!entry.is_entered) continue;
    ++entered;
    bool is_found = false;
    ForEach(entry.before, entry.tokens,
            [&](PageId found) { is_found |= found == page; });
    if (!is_found) return broken(page, "is not found by its tokens");
    if (IsEvictable(entry)) {
      ++evictable;
      if (!order_.contains({entry.worth, entry.last_use, page})) {
        return broken(page, "could be evicted but is not in the order");
      }
    }
    for (PageId child = entry.first_child; child != kNone;
         child = entries_[child].next_sibling) {
      if (!entries_[child].is_entered || entries_[child].before != page) {
        return broken(page, "has a child that is another's");
      }
    }
    if (entry.before < 0) {
      ++roots[-1 - entry.before];
      continue;
    }
    const Entry& parent = entries_[entry.before];
    if (!parent.is_entered) return broken(page, "has no page before it");
    if (entry.is_leased && !parent.is_leased) {
      return broken(page, "is leased without the page before it");
    }
    if (Behind(parent.origin, entry.origin) != entry.origin) {
      return broken(page, "is said to be better than what is before it");
    }
  }
  for (size_t space = 0; space < spaces_.size(); ++space) {
    if (roots[space] != spaces_[space].roots) {
      return absl::InternalError(absl::StrCat(
          "space ", space, " of the prefix index has ", roots[space],
          " first pages, not ", spaces_[space].roots));
    }
  }
  if (entered != entered_ || evictable != order_.size()) {
    return absl::InternalError(
        absl::StrCat("the prefix index has ", entered, " pages, not ", entered_,
                     "; ", evictable, " may be evicted, not ", order_.size()));
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
