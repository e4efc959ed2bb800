#include "server/scheduling/page_account.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// From here on a prompt sees other keys than if it went on
// (PatternDecision::prompt_end_blocks), as others' may.
int FirstEndToken(const Request& request) {
  const int end_blocks = request.attention.prompt_end_blocks;
  if (end_blocks == 0) return std::numeric_limits<int>::max();
  const int tokens = static_cast<int>(request.prompt.size());
  const int blocks = (tokens + kPageTokens - 1) / kPageTokens;
  return std::max(blocks - end_blocks, 0) * kPageTokens;
}

// Of a request of whose first `measured_tokens` nothing is measured any more.
HitRule RuleOf(const Request& request, int measured_tokens) {
  HitRule rule = {.traits = request.attention.traits};
  if (request.profile != nullptr) rule.most_tokens = 0;
  if (request.measured.has_value()) rule.most_tokens = measured_tokens;
  return rule;
}

bool IsSame(const AttentionChoice& a, const AttentionChoice& b) {
  return a.map == b.map && (a.map != nullptr || a.pattern == b.pattern);
}

}  // namespace

PageAccount::PageAccount(Options options)
    : options_(std::move(options)),
      pool_(options_.pages, options_.index),
      is_doubted_(options_.pages) {}

int32_t PageAccount::FindPlan(const PatternDecision& attention) const {
  for (const Plan& plan : plans_) {
    if (plan.name == attention.plan && IsSame(plan.choice, attention.choice)) {
      return plan.id;
    }
  }
  return kNoPlan;
}

int32_t PageAccount::PlanOf(const PatternDecision& attention,
                            SequenceId sequence) {
  const auto forgotten = forgotten_.find(attention.plan);
  if (forgotten != forgotten_.end() && sequence < forgotten->second) {
    return kNoPlan;
  }
  const int32_t known = FindPlan(attention);
  if (known != kNoPlan) return known;
  if (attention.plan.empty()) {
    const auto unnamed =
        std::count_if(plans_.begin(), plans_.end(),
                      [](const Plan& plan) { return plan.name.empty(); });
    if (static_cast<size_t>(unnamed) >= kMostPatterns) return kNoPlan;
  }
  plans_.push_back({attention.plan, attention.choice, next_plan_});
  return next_plan_++;
}

bool PageAccount::IsKnown(int32_t plan) const {
  return plan == kDense ||
         std::any_of(plans_.begin(), plans_.end(),
                     [plan](const Plan& known) { return known.id == plan; });
}

std::string PageAccount::SpaceOf(const Request& request) const {
  // Where the name ends is told by its length, whatever the salt holds.
  return StrCat(options_.model_name.size(), ":", options_.model_name,
                request.cache_salt);
}

PageClaim PageAccount::Claim(const Request& request, SequenceId sequence) {
  PageClaim claim;
  claim.space_ = SpaceOf(request);
  claim.border_tokens_ =
      std::max(request.attention.traits.chunk_border_tokens, 1);
  claim.prompt_tokens_ = static_cast<int>(request.prompt.size());
  claim.first_end_token_ = FirstEndToken(request);
  // Where the prompt's end chooses, pages are no other prompt's.
  claim.may_enter_ =
      options_.keeps_prefixes && request.attention.traits.is_selection_causal;
  for (int phase = 0; phase < kPhases; ++phase) {
    const QualityClass quality = request.attention.quality[phase];
    const bool is_dense = request.attention.is_dense[phase];
    claim.origins_[phase] = {
        .quality = quality,
        .plan = is_dense ? kDense : PlanOf(request.attention, sequence),
        .is_pure = static_cast<Phase>(phase) == Phase::kPrefill,
        .writer = sequence};
    if (claim.origins_[phase].plan == kNoPlan) claim.may_enter_ = false;
  }
  return claim;
}

PrefixIndex::Wanted PageAccount::WantedBy(const Request& request,
                                          SequenceId reader) const {
  const auto plan = [&](Phase phase) {
    const bool is_dense = request.attention.is_dense[static_cast<int>(phase)];
    return is_dense ? kDense : FindPlan(request.attention);
  };
  return {
      .quality = request.attention.quality[static_cast<int>(Phase::kPrefill)],
      .is_pure = request.seed_was_given || request.sampling.temperature == 0,
      .plan = plan(Phase::kPrefill),
      .reader = reader,
      .output_plan = plan(Phase::kDecode),
      .first_own_page = FirstEndToken(request) / kPageTokens};
}

PrefixIndex::Run PageAccount::FindUsable(
    const HitRule& rule, const std::string& space,
    absl::Span<const TokenId> tokens, const PrefixIndex::Wanted& wanted) const {
  const int total = static_cast<int>(tokens.size());
  int usable = UsableHit(rule, total, total);
  PrefixIndex::Run run;
  // A run is the best of those that are as long, so it is looked for as long as
  // it will be read.
  for (int found = -1; usable > 0 && found != usable;) {
    run = pool_.index().Find(space, tokens.first(usable), wanted);
    found = static_cast<int>(run.pages.size()) * kPageTokens;
    usable = UsableHit(rule, found, total);
  }
  if (usable == 0) return {};
  return run;
}

PageAccount::Hit PageAccount::Find(const Wish& wish) const {
  if (!options_.keeps_prefixes) return {};
  const HitRule rule = RuleOf(wish.request, wish.measured_tokens);
  PrefixIndex::Run run = FindUsable(rule, SpaceOf(wish.request), wish.tokens,
                                    WantedBy(wish.request, wish.sequence));
  const int tokens = static_cast<int>(run.pages.size()) * kPageTokens;
  return {std::move(run.pages), tokens, run.is_pure};
}

std::optional<PageClaim> PageAccount::Start(const Wish& wish) {
  const int total = static_cast<int>(wish.tokens.size());
  SPARSESERVE_CHECK(total >= 1 && int64_t{wish.pages} * kPageTokens >= total);
  const Hit hit = Find(wish);
  const auto leased =
      std::count_if(hit.pages.begin(), hit.pages.end(),
                    [this](PageId page) { return pool_.owners(page) > 0; });
  const int taken = wish.pages - static_cast<int>(leased);
  if (taken + wish.spare > available()) return std::nullopt;
  PageClaim claim = Claim(wish.request, wish.sequence);
  claim.hit_tokens_ = hit.tokens;
  claim.is_reproducible_ = hit.is_reproducible;
  claim.shared_ = static_cast<int>(hit.pages.size());
  claim.first_doubted_ = static_cast<int>(
      std::find_if(hit.pages.begin(), hit.pages.end(),
                   [this](PageId page) { return is_doubted_[page]; }) -
      hit.pages.begin());
  claim.entered_ = claim.shared_;
  pool_.Share(claim.lease_, hit.pages);
  SPARSESERVE_CHECK(pool_.Grow(claim.lease_, wish.pages));
  if (wish.is_restart) {
    counts_.refound_tokens += hit.tokens;
  } else if (options_.keeps_prefixes &&
             MayHit(RuleOf(wish.request, wish.measured_tokens))) {
    counts_.query_tokens += total;
    counts_.hit_tokens += hit.tokens;
  }
  return claim;
}

bool PageAccount::CouldStart(const Wish& wish,
                             absl::Span<const PageClaim* const> given) const {
  // How many of a page's owners would give it back.
  absl::flat_hash_map<PageId, int> returned;
  int available = this->available();
  for (const PageClaim* claim : given) {
    for (const PageId page : claim->lease_.pages()) {
      if (++returned[page] == pool_.owners(page)) ++available;
    }
  }
  const Hit hit = Find(wish);
  int taken = wish.pages;
  for (const PageId page : hit.pages) {
    const auto found = returned.find(page);
    const int left =
        pool_.owners(page) - (found == returned.end() ? 0 : found->second);
    if (left > 0) --taken;
  }
  return taken + wish.spare <= available;
}

std::optional<PageClaim> PageAccount::StartSibling(
    const PageClaim& first, const Request& request, int pages,
    std::vector<PageCopy>& copies) {
  const int total = static_cast<int>(request.prompt.size());
  SPARSESERVE_CHECK(total == first.prompt_tokens_);
  SPARSESERVE_CHECK(int64_t{pages} * kPageTokens >= total);
  // Of the same decision as the first; what it writes it will not read again.
  PageClaim claim = Claim(request, first.origins_[0].writer);
  for (PageOrigin& origin : claim.origins_) origin.writer = 0;
  claim.hit_tokens_ =
      SharedPromptTokens(RuleOf(request, /*measured_tokens=*/0), total);
  claim.is_reproducible_ = first.is_reproducible_;
  const int shared = claim.hit_tokens_ / kPageTokens;
  pool_.Share(claim.lease_, first.lease_.pages().first(shared));
  if (!pool_.Grow(claim.lease_, pages)) return std::nullopt;
  if (claim.hit_tokens_ % kPageTokens != 0) {
    copies.push_back({.from = first.lease_.pages()[shared],
                      .to = claim.lease_.pages()[shared]});
  }
  // What it shares is entered by the first, or not at all.
  claim.shared_ = shared;
  claim.entered_ = shared;
  claim.may_enter_ = claim.may_enter_ && first.entered_ >= shared;
  return claim;
}

bool PageAccount::Grow(PageClaim& claim, int pages) {
  return pool_.Grow(claim.lease_, pages);
}

PageOrigin PageAccount::OriginOf(const PageClaim& claim, int page) const {
  const PageOrigin& prompt = claim.origins_[static_cast<int>(Phase::kPrefill)];
  const PageOrigin& output = claim.origins_[static_cast<int>(Phase::kDecode)];
  const int begin = page * kPageTokens;
  const int end = begin + kPageTokens;
  if (begin >= claim.prompt_tokens_) return output;
  PageOrigin origin = prompt;
  if (end > claim.prompt_tokens_ && output.quality >= prompt.quality) {
    origin = output;
  }
  if (end > std::min(claim.prompt_tokens_, claim.first_end_token_)) {
    origin.is_pure = false;
  }
  return origin;
}

void PageAccount::Filled(PageClaim& claim, absl::Span<const TokenId> tokens) {
  const int computed = static_cast<int>(tokens.size());
  Trust(claim);
  // Cut elsewhere, its pattern may have chosen otherwise from there on.
  if (computed < claim.prompt_tokens_ && computed % claim.border_tokens_ != 0) {
    claim.origins_[static_cast<int>(Phase::kPrefill)].is_pure = false;
  }
  while (claim.may_enter_ && (claim.entered_ + 1) * kPageTokens <= computed) {
    const PageOrigin origin = OriginOf(claim, claim.entered_);
    const PageId page = claim.lease_.pages()[claim.entered_];
    is_doubted_[page] = false;  // of what it held before
    claim.may_enter_ =
        IsKnown(origin.plan) &&
        pool_.Enter(
            claim.lease_, claim.entered_, claim.space_,
            tokens.subspan(int64_t{claim.entered_} * kPageTokens, kPageTokens),
            origin);
    if (claim.may_enter_) ++claim.entered_;
  }
}

void PageAccount::Trust(PageClaim& claim) {
  if (std::exchange(claim.is_trusted_, true)) return;
  for (const PageId page : claim.lease_.pages().first(claim.shared_)) {
    is_doubted_[page] = false;
  }
}

void PageAccount::Discard(PageClaim& claim) {
  claim.may_enter_ = false;
  const SequenceId writer = claim.origins_[0].writer;
  for (int i = 0; i < claim.entered_; ++i) {
    const PageId page = claim.lease_.pages()[i];
    if (!pool_.index().contains(page)) return;  // nor is what is behind it
    const bool is_shared = i < claim.shared_;
    const bool is_own =
        writer != 0 ? pool_.index().origin(page).writer == writer : !is_shared;
    const bool was_doubted = is_shared && i >= claim.first_doubted_;
    if (is_own || was_doubted || is_doubted_[page]) {
      pool_.Forget(page);
      return;
    }
    if (is_shared) is_doubted_[page] = true;
  }
}

void PageAccount::ForgetPlan(const std::string& plan, SequenceId next) {
  if (!plan.empty()) forgotten_[plan] = next;
  for (auto known = plans_.begin(); known != plans_.end();) {
    if (known->name == plan) {
      pool_.ForgetPlan(known->id);
      known = plans_.erase(known);
    } else {
      ++known;
    }
  }
}

int PageAccount::ForgetAll() {
  const int entered = pool_.index().entered();
  for (PageId page = 0; page < pool_.total(); ++page) pool_.Forget(page);
  return entered;
}

std::array<int, kQualityClasses> PageAccount::HitTokens(
    const Request& request) const {
  std::array<int, kQualityClasses> tokens = {};
  if (!options_.keeps_prefixes) return tokens;
  const HitRule rule = RuleOf(request, /*measured_tokens=*/0);
  const std::string space = SpaceOf(request);
  for (int quality = 0; quality < kQualityClasses; ++quality) {
    const PrefixIndex::Run run =
        FindUsable(rule, space, request.prompt,
                   {.quality = static_cast<QualityClass>(quality),
                    .first_own_page = FirstEndToken(request) / kPageTokens});
    tokens[quality] = static_cast<int>(run.pages.size()) * kPageTokens;
  }
  return tokens;
}

PageAccount::Counts PageAccount::TakeCounts() {
  Counts counts = std::exchange(counts_, {});
  counts.evicted_pages =
      pool_.evicted() - std::exchange(reported_evictions_, pool_.evicted());
  return counts;
}

absl::Status PageAccount::CheckInvariants(
    absl::Span<const PageClaim* const> claims) const {
  RETURN_IF_ERROR(pool_.CheckInvariants());
  std::vector<int> owners(pool_.total());
  for (const PageClaim* claim : claims) {
    const absl::Span<const PageId> pages = claim->lease_.pages();
    for (const PageId page : pages) ++owners[page];
    for (const PageId page : pages.subspan(claim->entered_)) {
      if (pool_.owners(page) == 1 && !pool_.index().contains(page)) continue;
      return absl::InternalError(
          StrCat("page ", page, " may be written by one of its ",
                 pool_.owners(page), " owners and is ",
                 pool_.index().contains(page) ? "" : "not ", "found"));
    }
  }
  for (PageId page = 0; page < pool_.total(); ++page) {
    if (owners[page] != pool_.owners(page)) {
      return absl::InternalError(StrCat("page ", page, " has ",
                                        pool_.owners(page), " owners, but ",
                                        owners[page], " sequences hold it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
