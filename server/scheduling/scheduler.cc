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
#include "server/scheduling/first_token_forecast.h"

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

absl::Status CheckPositive(std::string_view name, absl::Duration value) {
  if (value > absl::ZeroDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("scheduler.", name, " is ",
                                           absl::FormatDuration(value),
                                           ", must be above 0"));
}

int MaxRequestTokens(const Scheduler::Options& options) {
  const int64_t held = int64_t{options.kv_pages} * kPageTokens;
  return static_cast<int>(std::min<int64_t>(options.context_tokens, held));
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
  RETURN_IF_ERROR(CheckPositive("step_time_target", options.step_time_target));
  RETURN_IF_ERROR(CheckPositive("ageing_period", options.ageing_period));
  if (!(options.best_effort_share >= 0 && options.best_effort_share <= 1)) {
    return absl::InvalidArgumentError(StrCat("scheduler.best_effort_share is ",
                                             options.best_effort_share,
                                             ", must be from 0 to 1"));
  }
  return std::unique_ptr<Scheduler>(new Scheduler(options, tokenizer));
}

Scheduler::Scheduler(const Options& options, const Tokenizer& tokenizer)
    : options_(options),
      tokenizer_(tokenizer),
      max_request_tokens_(MaxRequestTokens(options)),
      pages_(options.kv_pages),
      line_(options.ageing_period),
      late_share_(options.best_effort_share, options.max_step_tokens) {}

Scheduler::~Scheduler() = default;

void Scheduler::Admit(std::vector<std::unique_ptr<Request>> requests,
                      absl::Time now) {
  for (std::unique_ptr<Request>& request : requests) {
    SPARSESERVE_CHECK(request->attention.traits.is_selection_causal ||
                      static_cast<int>(request->prompt.size()) <=
                          options_.max_step_tokens);
    // All but the one may decode while it has its prompt run.
    const Sequence::Limits limits = {
        .max_tokens = max_request_tokens_,
        .least_budget =
            options_.max_step_tokens - (options_.max_running_sequences - 1)};
    auto sequence = std::make_unique<Sequence>(next_id_++, std::move(request),
                                               limits, tokenizer_);
    Rank rank = {.level = sequence->request().priority,
                 .deadline = FirstTokenDeadline(sequence->request()),
                 .id = sequence->id()};
    WaitingLine::Backlog ahead = line_.Ahead(rank);
    ahead.work += prompts_left_;
    if (const auto estimate = Estimate(*sequence, ahead, now)) {
      sequence->SetPrediction(now - sequence->request().arrival +
                              estimate->p95);
      const Verdict verdict = Judge(sequence->request(), *estimate, now);
      if (verdict.refusal.has_value()) {
        EndWaiting(std::move(sequence), *verdict.refusal, now);
        continue;
      }
      rank.is_late = verdict.is_late;
    }
    const PromptKind kind = KindOf(*sequence);
    line_.Add(std::move(sequence), rank, kind, now);
  }
}

PromptKind Scheduler::KindOf(const Sequence& sequence) const {
  if (!sequence.request().attention.traits.is_selection_causal) {
    return PromptKind::kWhole;
  }
  return sequence.tokens_to_run() > options_.max_step_tokens
             ? PromptKind::kLong
             : PromptKind::kShort;
}

std::optional<FirstTokenEstimate> Scheduler::Estimate(
    const Sequence& sequence, const WaitingLine::Backlog& ahead,
    absl::Time now) const {
  if (!cost_.is_ready()) return std::nullopt;
  const StepWork own = sequence.WorkOf(sequence.tokens_to_run());
  LoadAhead load;
  load.prompts = ahead.work;
  load.decodes = decode_work_;
  load.prompt_rows =
      decode_work_.decode_rows == 0
          ? options_.max_step_tokens
          : PromptRowsWithin(cost_, decode_work_, options_.step_time_target,
                             kPageTokens, options_.max_step_tokens);
  const double starts_per_second = starts_.PerSecond(now);
  if (places() == 0 && starts_per_second > 0) {
    load.place_wait = absl::Seconds((ahead.requests + 1) / starts_per_second);
  }
  FirstTokenEstimate estimate;
  estimate.expected = ForecastFirstToken(cost_, load, own);
  estimate.p95 = estimate.expected * cost_.margin();
  estimate.alone =
      ForecastFirstToken(cost_, {.prompt_rows = options_.max_step_tokens}, own);
  return estimate;
}

bool Scheduler::IsHopeless(const Sequence& sequence, absl::Time now) const {
  const absl::Time target = TargetDeadline(sequence.request());
  if (target == absl::InfiniteFuture() ||
      sequence.progress() == Progress::kDecode) {
    return false;
  }
  if (now > target) return true;
  const auto estimate = Estimate(sequence, {}, now);
  return estimate.has_value() && now + estimate->expected > target;
}

bool Scheduler::MissesDeadline(const Sequence& sequence, absl::Time now) const {
  if (sequence.preemptions() > 0) return false;
  const auto estimate = Estimate(sequence, {}, now);
  return estimate.has_value() &&
         now + estimate->expected > sequence.request().deadline;
}

void Scheduler::MarkLateRunners(absl::Time now) {
  for (const auto& runner : running_) {
    if (runner->rank.is_late) continue;
    runner->rank.is_late = IsHopeless(*runner->sequence, now);
  }
}

void Scheduler::EndWaiting(std::unique_ptr<Sequence> sequence, Ending ending,
                           absl::Time now) {
  if (sequence->preemptions() > 0) --preempted_;
  sequence->End(ending, now);
  ended_.push_back(std::move(sequence));
}

void Scheduler::Sweep(absl::Time now) {
  for (const auto& runner : running_) {
    Sequence& sequence = *runner->sequence;
    // The deadline first: callers' libraries cancel when it passes.
    if (sequence.request().deadline <= now) {
      sequence.End(Ending::kDeadline, now);
    } else if (sequence.request().cancelled->load(std::memory_order_relaxed)) {
      sequence.End(Ending::kCancelled, now);
    }
  }
  MoveEnded();
  for (auto& sequence : line_.TakeExpired(now)) {
    EndWaiting(std::move(sequence), Ending::kDeadline, now);
  }
  for (auto& sequence : line_.TakeCancelled()) {
    EndWaiting(std::move(sequence), Ending::kCancelled, now);
  }
}

void Scheduler::GrowLeases(absl::Time now) {
  std::vector<Runner*> short_of_pages;
  for (const auto& runner : running_) {
    Sequence& sequence = *runner->sequence;
    if (sequence.is_decoding() &&
        !pages_.Grow(sequence.lease(), sequence.pages_for(1))) {
      short_of_pages.push_back(runner.get());
    }
  }
  for (Runner* const runner : short_of_pages) {
    while (runner->sequence != nullptr &&
           !pages_.Grow(runner->sequence->lease(),
                        runner->sequence->pages_for(1))) {
      Runner* const victim = ChooseVictim(running_);
      SPARSESERVE_CHECK(victim != nullptr);
      Preempt(*victim, now);
    }
  }
}

void Scheduler::Preempt(Runner& runner, absl::Time now) {
  preempted_tokens_.push_back(runner.sequence->computed_tokens());
  ++preempted_;
  runner.sequence->Preempt();
  // Before what has not begun, of its class.
  Rank rank = runner.rank;
  rank.deadline = absl::InfinitePast();
  const PromptKind kind = KindOf(*runner.sequence);
  line_.Add(std::move(runner.sequence), rank, kind, now);
  reserve_.Preempted();
}

std::vector<Scheduler::Output> Scheduler::Commit(const StepResult& result,
                                                 absl::Time now) {
  SPARSESERVE_CHECK(result.slices.size() == planned_.size());
  cost_.Observe(planned_work_, now - planned_at_);
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
  for (const auto& runner : running_) {
    if (!runner->sequence->ended()) runner->sequence->End(ending, now);
  }
  MoveEnded();
  for (auto& sequence : line_.TakeAll()) {
    EndWaiting(std::move(sequence), ending, now);
  }
}

// The order of the rest stands.
void Scheduler::MoveEnded() {
  auto kept = running_.begin();
  for (auto& runner : running_) {
    if (runner->sequence == nullptr) continue;
    if (runner->sequence->ended()) {
      ended_.push_back(std::move(runner->sequence));
    } else {
      std::swap(*kept++, runner);
    }
  }
  running_.erase(kept, running_.end());
}

std::vector<std::unique_ptr<Sequence>> Scheduler::TakeEnded() {
  MoveEnded();
  return std::exchange(ended_, {});
}

absl::Status Scheduler::CheckInvariants() const {
  RETURN_IF_ERROR(pages_.CheckInvariants());
  std::set<PageId> owned;
  int held = 0;
  for (const auto& runner : running_) {
    const absl::Span<const PageId> pages = runner->sequence->lease().pages();
    owned.insert(pages.begin(), pages.end());
    held += runner->sequence->lease().size();
  }
  if (held != pages_.leased() || held != static_cast<int>(owned.size())) {
    return absl::InternalError(
        StrCat("running sequences hold ", held, " pages, ", owned.size(),
               " of them different, while ", pages_.leased(), " are leased"));
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
