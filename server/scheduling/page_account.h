#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/kv/page_pool.h"
#include "engine/pattern/attention_choice.h"
#include "engine/step.h"
#include "server/scheduling/request.h"
#include "server/scheduling/usable_hit.h"

namespace sparseserve {

// The pages of one sequence, and what may be said of them to others. Move-only;
// gives its pages back when destroyed or assigned to. PageAccount makes them,
// and must outlive them.
class PageClaim {
 public:
  PageClaim() = default;

  const PageLease& lease() const { return lease_; }
  // The first so many tokens need not be computed.
  int hit_tokens() const { return hit_tokens_; }
  // Whether their keys and values are those that the sequence would have
  // computed itself, rather than ones as good.
  bool is_reproducible() const { return is_reproducible_; }

 private:
  friend class PageAccount;

  PageLease lease_;
  int hit_tokens_ = 0;
  bool is_reproducible_ = true;
  std::string space_;
  int border_tokens_ = 1;  // where the pattern may be cut
  int prompt_tokens_ = 0;
  int first_end_token_ = 0;                  // of PageOrigin::is_pure
  std::array<PageOrigin, kPhases> origins_;  // of rows of a phase
  // The first so many pages were others', or its own before it was stopped; of
  // these, from which one on they were doubted when it began with them.
  int shared_ = 0;
  int first_doubted_ = std::numeric_limits<int>::max();
  bool is_trusted_ = false;  // it ran behind them, and well
  // The first so many pages were put into the index or taken from it: nobody
  // writes them.
  int entered_ = 0;
  bool may_enter_ = false;
};

// Who has which page, in the scheduler's terms: begins prompts with pages that
// are there already, leases the rest, and keeps what sequences filled for
// prompts to come. Owns the pool. Serving thread only.
class PageAccount {
 public:
  struct Options {
    int pages = 0;  // of the engine; at least 1
    // Whether prompts share pages; otherwise none is kept.
    bool keeps_prefixes = true;
    std::string model_name = {};  // pages are no other model's
    PrefixIndex::Options index = {};
  };
  explicit PageAccount(Options options);

  struct Wish {
    const Request& request;
    // Its prompt or, of one that was stopped, also what it had drawn.
    absl::Span<const TokenId> tokens;
    int pages = 0;            // at least what holds the tokens
    SequenceId sequence = 0;  // reads again what it wrote; 0 if it is none
    // Pages that are to be left for others.
    int spare = 0;
    // Begins again: not counted as a prompt that looked for pages.
    bool is_restart = false;
    // Of a request that is measured: of so many rows at the start it need not
    // be any more.
    int measured_tokens = 0;
  };
  // Pages for the tokens: as many as can be had of those that hold their
  // beginning, and others. Nothing, with nothing changed, if there are too few.
  // A request that draws by a seed or without chance gets only pages that it
  // would have filled alike, or did; where a prompt's end is treated apart, any
  // request does from there on.
  std::optional<PageClaim> Start(const Wish& wish);

  // Whether there were pages enough if `given` were returned.
  bool CouldStart(const Wish& wish,
                  absl::Span<const PageClaim* const> given) const;

  // How many of the tokens Start() would leave out now.
  int ExpectedHit(const Wish& wish) const { return Find(wish).tokens; }

  // For another answer to the prompt of `first`, all of which is computed. A
  // page that both will write is copied: `copies` gets what the next plan is to
  // have in StepPlan::page_copies. `request` is the answer's own.
  std::optional<PageClaim> StartSibling(const PageClaim& first,
                                        const Request& request, int pages,
                                        std::vector<PageCopy>& copies);

  // False, with nothing changed, if there are too few pages.
  bool Grow(PageClaim& claim, int pages);

  // The keys and values of `tokens` are there: all that the sequence has
  // computed so far. To be called after each of its slices that went well.
  void Filled(PageClaim& claim, absl::Span<const TokenId> tokens);

  // What the sequence computed is not to be trusted: nobody finds it any more,
  // nor what stands on it. The fault may be in what it began with, too: that is
  // doubted, and goes likewise if another one fails behind it before one that
  // begins there runs well.
  void Discard(PageClaim& claim);

  // A named plan turned out worse than it was said to be: what it wrote, and
  // what stands on that, is found no more, nor what sequences before `next`
  // still write, which chose it before that, even if they have not begun.
  void ForgetPlan(const std::string& plan, SequenceId next);

  // What is kept is found no more; returns how many pages that were. Whoever
  // has them leased keeps them.
  int ForgetAll();

  // Tokens of the prompt that the request could leave out if it ran in each
  // quality class, with a plan of which no page is kept. Changes nothing.
  std::array<int, kQualityClasses> HitTokens(const Request& request) const;

  // Counted since the last call.
  struct Counts {
    int64_t query_tokens = 0;    // of prompts that may begin with pages
    int64_t hit_tokens = 0;      // of these, those that were left out
    int64_t refound_tokens = 0;  // that stopped ones left out, beginning again
    int64_t evicted_pages = 0;
  };
  Counts TakeCounts();

  const PagePool& pool() const { return pool_; }
  // Pages that can be had.
  int available() const { return pool_.free() + pool_.cached(); }
  // INTERNAL names what is broken, also if `claims` are not all that there are,
  // or if a page that one may write has another owner or may be found.
  absl::Status CheckInvariants(absl::Span<const PageClaim* const> claims) const;

 private:
  // Patterns that requests gave without a name share pages as plans do; so many
  // different ones, and no others.
  static constexpr size_t kMostPatterns = 64;
  static constexpr int32_t kDense = 0;
  static constexpr int32_t kNoPlan = -1;

  struct Plan {
    std::string name;  // empty: a request's own pattern
    AttentionChoice choice;
    int32_t id = kNoPlan;
  };

  struct Hit {
    std::vector<PageId> pages;
    int tokens = 0;
    bool is_reproducible = true;
  };

  // Of the plan that the request's attention follows; kNoPlan if none of its
  // pages was ever kept.
  int32_t FindPlan(const PatternDecision& attention) const;
  // Likewise, but has it kept from now on; kNoPlan if it cannot be.
  int32_t PlanOf(const PatternDecision& attention, SequenceId sequence);
  PrefixIndex::Wanted WantedBy(const Request& request, SequenceId reader) const;
  // As many pages as may be read, and the best of those.
  PrefixIndex::Run FindUsable(const HitRule& rule, const std::string& space,
                              absl::Span<const TokenId> tokens,
                              const PrefixIndex::Wanted& wanted) const;
  Hit Find(const Wish& wish) const;
  // What it began with is in order.
  void Trust(PageClaim& claim);
  bool IsKnown(int32_t plan) const;
  std::string SpaceOf(const Request& request) const;
  PageClaim Claim(const Request& request, SequenceId sequence);
  PageOrigin OriginOf(const PageClaim& claim, int page) const;

  const Options options_;
  PagePool pool_;
  std::vector<Plan> plans_;
  int32_t next_plan_ = kDense + 1;
  // By name, the first sequence that chose the plan after it was forgotten.
  absl::flat_hash_map<std::string, SequenceId> forgotten_;
  // By page in the index: whoever failed last behind it may have by its fault.
  std::vector<bool> is_doubted_;
  Counts counts_;
  int64_t reported_evictions_ = 0;
};

}  // namespace sparseserve
