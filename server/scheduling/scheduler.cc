#include "server/scheduling/scheduler.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/scheduling/sequence.h"

namespace sparseserve {
namespace {

constexpr int kMostStepTokens = 8192;
constexpr int kMostRunningSequences = 1024;

absl::Status CheckRange(std::string_view name, int value, int least, int most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("scheduler.", name, " is ", value,
                                           ", must be from ", least, " to ",
                                           most));
}

int MaxRequestTokens(const Scheduler::Options& options) {
  const int64_t held = int64_t{options.kv_pages} * kPageTokens;
  return static_cast<int>(std::min<int64_t>(options.context_tokens, held));
}

// What ended leaves `sequences`, the order of the rest stands.
template <typename Sequences>
void MoveEnded(Sequences& sequences,
               std::vector<std::unique_ptr<Sequence>>& ended) {
  auto kept = sequences.begin();
  for (auto& sequence : sequences) {
    if (sequence->ended()) {
      ended.push_back(std::move(sequence));
    } else {
      std::swap(*kept++, sequence);
    }
  }
  sequences.erase(kept, sequences.end());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(
    const Options& options, const Tokenizer& tokenizer) {
  constexpr int kMostInt = std::numeric_limits<int>::max();
  RETURN_IF_ERROR(CheckRange("max_running_sequences",
                             options.max_running_sequences, 1,
                             kMostRunningSequences));
  // All but one may decode while that one needs room for a page-sized chunk.
  RETURN_IF_ERROR(CheckRange("max_step_tokens", options.max_step_tokens,
                             options.max_running_sequences - 1 + kPageTokens,
                             kMostStepTokens));
  RETURN_IF_ERROR(
      CheckRange("context_tokens", options.context_tokens, 2, kMostInt));
  RETURN_IF_ERROR(CheckRange("kv_pages", options.kv_pages, 1, kMostInt));
  return std::unique_ptr<Scheduler>(new Scheduler(options, tokenizer));
}

Scheduler::Scheduler(const Options& options, const Tokenizer& tokenizer)
    : options_(options),
      tokenizer_(tokenizer),
      max_request_tokens_(MaxRequestTokens(options)),
      pages_(options.kv_pages) {}

Scheduler::~Scheduler() = default;

void Scheduler::Admit(std::vector<std::unique_ptr<Request>> requests) {
  for (std::unique_ptr<Request>& request : requests) {
    SPARSESERVE_CHECK(request->attention.traits.is_selection_causal ||
                      static_cast<int>(request->prompt.size()) <=
                          options_.max_step_tokens);
    // All but the one may decode while it has its prompt run.
    const Sequence::Limits limits = {
        .max_tokens = max_request_tokens_,
        .least_budget =
            options_.max_step_tokens - (options_.max_running_sequences - 1)};
    waiting_.push_back(std::make_unique<Sequence>(
        next_id_++, std::move(request), limits, tokenizer_));
  }
}

void Scheduler::Sweep(absl::Time now) {
  const auto sweep = [now](Sequence& sequence) {
    const Request& request = sequence.request();
    // The deadline first: callers' libraries cancel when it passes.
    if (request.deadline <= now) {
      sequence.End(Ending::kDeadline, now);
    } else if (request.cancelled->load(std::memory_order_relaxed)) {
      sequence.End(Ending::kCancelled, now);
    }
  };
  for (const auto& sequence : running_) sweep(*sequence);
  for (const auto& sequence : waiting_) sweep(*sequence);
  MoveEnded(running_, ended_);
  MoveEnded(waiting_, ended_);
}

StepPlan Scheduler::PlanStep(absl::Time now) {
  StepPlan plan;
  plan.slices.reserve(options_.max_running_sequences);
  planned_.clear();
  started_.clear();
  budget_ = options_.max_step_tokens;
  is_half_way_ = false;
  for (const auto& sequence : running_) {
    if (sequence->progress() == Progress::kDecode) AddSlice(*sequence, plan);
  }
  // At most one prompt is half-way, so it is sure of the rows that decodes
  // leave. What it leaves itself goes to later ones that fit as a whole.
  for (const auto& sequence : running_) {
    if (sequence->progress() == Progress::kPrefill) AddSlice(*sequence, plan);
  }
  while (StartNext(plan, now)) {
  }
  return plan;
}

void Scheduler::AddSlice(Sequence& sequence, StepPlan& plan) {
  const int tokens = sequence.NextTokens(budget_);
  SPARSESERVE_CHECK(tokens > 0);
  plan.slices.push_back(sequence.Slice(tokens));
  if (!plan.slices.back().wants_token) is_half_way_ = true;
  planned_.push_back({&sequence, tokens});
  budget_ -= tokens;
}

bool Scheduler::MustWaitForStreams(const Sequence& sequence) const {
  if (sequence.request().attention.traits.is_selection_causal) return false;
  return std::any_of(running_.begin(), running_.end(), [](const auto& running) {
    return running->request().target.time_per_output_token !=
           absl::InfiniteDuration();
  });
}

bool Scheduler::StartNext(StepPlan& plan, absl::Time now) {
  if (waiting_.empty() || running() == options_.max_running_sequences) {
    return false;
  }
  Sequence& next = *waiting_.front();
  const int tokens = next.NextTokens(budget_);
  const bool fits = tokens == static_cast<int>(next.request().prompt.size());
  if (tokens == 0 || (is_half_way_ && !fits)) return false;
  if (MustWaitForStreams(next)) return false;
  PageLease lease;
  if (!pages_.Grow(lease, next.pages_needed())) return false;
  next.Start(std::move(lease), now);
  started_.push_back(&next.request());
  running_.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  AddSlice(next, plan);
  return true;
}

std::vector<Scheduler::Output> Scheduler::Commit(const StepResult& result,
                                                 absl::Time now) {
  SPARSESERVE_CHECK(result.slices.size() == planned_.size());
  std::vector<Output> outputs;
  outputs.reserve(planned_.size());
  for (size_t i = 0; i < planned_.size(); ++i) {
    Sequence& sequence = *planned_[i].sequence;
    Sequence::Advanced advanced =
        sequence.Advance(planned_[i].tokens, result.slices[i], now);
    outputs.push_back(
        {&sequence, std::move(advanced.piece), advanced.token_gap});
  }
  planned_.clear();
  return outputs;
}

void Scheduler::EndAll(Ending ending, absl::Time now) {
  for (const auto& sequence : running_) {
    if (!sequence->ended()) sequence->End(ending, now);
  }
  for (const auto& sequence : waiting_) sequence->End(ending, now);
  MoveEnded(running_, ended_);
  MoveEnded(waiting_, ended_);
}

std::vector<std::unique_ptr<Sequence>> Scheduler::TakeEnded() {
  MoveEnded(running_, ended_);
  return std::exchange(ended_, {});
}

absl::Status Scheduler::CheckInvariants() const {
  RETURN_IF_ERROR(pages_.CheckInvariants());
  std::set<PageId> owned;
  int held = 0;
  for (const auto& sequence : running_) {
    const absl::Span<const PageId> pages = sequence->lease().pages();
    owned.insert(pages.begin(), pages.end());
    held += sequence->lease().size();
  }
  if (held != pages_.leased() || held != static_cast<int>(owned.size())) {
    return absl::InternalError(
        StrCat("running sequences hold ", held, " pages, ", owned.size(),
               " of them different, while ", pages_.leased(), " are leased"));
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
