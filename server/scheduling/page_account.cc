#include "server/scheduling/page_account.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/scheduling/usable_hit.h"

namespace sparseserve {
namespace {

int FirstEndToken(const Request& request) {
  const int end_blocks = request.attention.prompt_end_blocks;
  if (end_blocks == 0) return std::numeric_limits<int>::max();
  const int tokens = static_cast<int>(request.prompt.size());
  const int blocks = (tokens + kPageTokens - 1) / kPageTokens;
  return std::max(blocks - end_blocks, 0) * kPageTokens;
}

HitRule RuleOf(const Request& request) {
  return {.traits = request.attention.traits,
          .first_end_token = FirstEndToken(request),
          .needs_every_row =
              request.profile != nullptr || request.measured.has_value()};
}

// What a request accepts of its own output it accepts of others'.
QualityClass ClassOf(const Request& request) {
  const auto& quality = request.attention.quality;
  return *std::max_element(quality.begin(), quality.end());
}

bool IsSame(const AttentionChoice& a, const AttentionChoice& b) {
  return a.map == b.map && (a.map != nullptr || a.pattern == b.pattern);
}

}  // namespace

PageAccount::PageAccount(Options options)
    : options_(std::move(options)), pool_(options_.pages, options_.index) {}

int32_t PageAccount::PlanOf(const PatternDecision& attention) {
  for (const Plan& plan : plans_) {
    if (plan.name == attention.plan && IsSame(plan.choice, attention.choice)) {
      return plan.id;
    }
  }
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

PageClaim PageAccount::Claim(const Request& request) {
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
        .plan = is_dense ? kDense : PlanOf(request.attention),
        .is_pure = static_cast<Phase>(phase) == Phase::kPrefill};
    if (claim.origins_[phase].plan == kNoPlan) claim.may_enter_ = false;
  }
  return claim;
}

std::optional<PageClaim> PageAccount::Start(const Request& request,
                                            absl::Span<const TokenId> tokens,
                                            int pages) {
  const int total = static_cast<int>(tokens.size());
  SPARSESERVE_CHECK(total >= 1 && int64_t{pages} * kPageTokens >= total);
  PageClaim claim = Claim(request);
  PrefixIndex::Run run;
  if (options_.keeps_prefixes) {
    run = pool_.index().Find(
        claim.space_, tokens,
        {.quality = ClassOf(request),
         .is_pure = request.seed_was_given || request.sampling.temperature == 0,
         .plan = claim.origins_[static_cast<int>(Phase::kPrefill)].plan});
  }
  claim.hit_tokens_ = UsableHit(
      RuleOf(request), static_cast<int>(run.pages.size()) * kPageTokens, total);
  claim.is_reproducible_ = claim.hit_tokens_ == 0 || run.is_pure;
  const int shared = claim.hit_tokens_ / kPageTokens;
  pool_.Share(claim.lease_, absl::MakeConstSpan(run.pages).first(shared));
  if (!pool_.Grow(claim.lease_, pages)) return std::nullopt;
  claim.entered_ = shared;
  if (options_.keeps_prefixes) {
    counts_.query_tokens += total;
    counts_.hit_tokens += claim.hit_tokens_;
  }
  return claim;
}

std::optional<PageClaim> PageAccount::StartSibling(
    const PageClaim& first, const Request& request, int pages,
    std::vector<PageCopy>& copies) {
  const int total = static_cast<int>(request.prompt.size());
  SPARSESERVE_CHECK(total == first.prompt_tokens_);
  SPARSESERVE_CHECK(int64_t{pages} * kPageTokens >= total);
  PageClaim claim = Claim(request);
  claim.hit_tokens_ = SharedPromptTokens(RuleOf(request), total);
  claim.is_reproducible_ = first.is_reproducible_;
  const int shared = claim.hit_tokens_ / kPageTokens;
  pool_.Share(claim.lease_, first.lease_.pages().first(shared));
  if (!pool_.Grow(claim.lease_, pages)) return std::nullopt;
  if (claim.hit_tokens_ % kPageTokens != 0) {
    copies.push_back({.from = first.lease_.pages()[shared],
                      .to = claim.lease_.pages()[shared]});
  }
  // What it shares is entered by the first, or not at all.
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
  // Cut elsewhere, its pattern may have chosen otherwise from there on.
  if (computed < claim.prompt_tokens_ && computed % claim.border_tokens_ != 0) {
    claim.origins_[static_cast<int>(Phase::kPrefill)].is_pure = false;
  }
  while (claim.may_enter_ && (claim.entered_ + 1) * kPageTokens <= computed) {
    const PageOrigin origin = OriginOf(claim, claim.entered_);
    claim.may_enter_ =
        IsKnown(origin.plan) &&
        pool_.Enter(
            claim.lease_, claim.entered_, claim.space_,
            tokens.subspan(int64_t{claim.entered_} * kPageTokens, kPageTokens),
            origin);
    if (claim.may_enter_) ++claim.entered_;
  }
}

void PageAccount::Discard(PageClaim& claim) {
  claim.may_enter_ = false;
  if (claim.entered_ > 0) pool_.Forget(claim.lease_.pages()[0]);
  claim.entered_ = 0;
}

void PageAccount::ForgetPlan(const std::string& plan) {
  for (auto known = plans_.begin(); known != plans_.end();) {
    if (known->name == plan) {
      pool_.ForgetPlan(known->id);
      known = plans_.erase(known);
    } else {
      ++known;
    }
  }
}

std::array<int, kQualityClasses> PageAccount::HitTokens(
    const Request& request) const {
  std::array<int, kQualityClasses> tokens = {};
  if (!options_.keeps_prefixes) return tokens;
  const std::string space = SpaceOf(request);
  for (int quality = 0; quality < kQualityClasses; ++quality) {
    const PrefixIndex::Run run = pool_.index().Find(
        space, request.prompt, {.quality = static_cast<QualityClass>(quality)});
    tokens[quality] = UsableHit(
        RuleOf(request), static_cast<int>(run.pages.size()) * kPageTokens,
        static_cast<int>(request.prompt.size()));
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
  std::map<PageId, int> owners;
  for (const PageClaim* claim : claims) {
    for (const PageId page : claim->lease_.pages()) ++owners[page];
  }
  for (PageId page = 0; page < pool_.total(); ++page) {
    const auto found = owners.find(page);
    const int held = found == owners.end() ? 0 : found->second;
    if (held != pool_.owners(page)) {
      return absl::InternalError(StrCat("page ", page, " has ",
                                        pool_.owners(page), " owners, but ",
                                        held, " sequences hold it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
