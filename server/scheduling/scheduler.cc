#include "server/scheduling/scheduler.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

int MaxRequestTokens(const Scheduler::Options& options) {
  const int64_t held = int64_t{options.kv_pages} * kPageTokens;
  return static_cast<int>(std::min<int64_t>(options.context_tokens, held));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(
    const Options& options, const Tokenizer& tokenizer) {
  RETURN_IF_ERROR(CheckSchedulerOptions(options));
  return std::unique_ptr<Scheduler>(new Scheduler(options, tokenizer));
}

Scheduler::Scheduler(const Options& options, const Tokenizer& tokenizer)
    : options_(options),
      tokenizer_(tokenizer),
      max_request_tokens_(MaxRequestTokens(options)),
      pages_({.pages = options.kv_pages,
              .keeps_prefixes = options.keeps_prefixes,
              .model_name = options.model_name,
              .index = options.prefix_index}),
      line_(options.ageing_period),
      forecast_({.max_step_tokens = options.max_step_tokens,
                 .max_running_sequences = options.max_running_sequences,
                 .step_time_target = options.step_time_target},
                cost_),
      late_share_(options.best_effort_share, options.max_step_tokens) {}

Scheduler::~Scheduler() = default;

void Scheduler::Admit(std::vector<std::unique_ptr<Request>> requests,
                      absl::Time now) {
  if (requests.empty()) return;
  forecast_.Look(running_, now);
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
    ExpectHit(*sequence);
    Rank rank = {.level = sequence->request().priority,
                 .deadline = FirstTokenDeadline(sequence->request()),
                 .id = sequence->id()};
    if (cost_.is_ready()) {
      const auto estimate =
          forecast_.OfWaiting(*sequence, Ahead(rank), /*is_late=*/false, now);
      sequence->SetPrediction(now - sequence->request().arrival +
                              estimate->p95);
      const Verdict verdict = Judge(sequence->request(), *estimate, now);
      if (verdict.refusal.has_value() && !(idle() && IsStale(now))) {
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
  return sequence.tokens_expected() > forecast_.prompt_rows()
             ? PromptKind::kLong
             : PromptKind::kShort;
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

std::vector<Scheduler::Output> Scheduler::Commit(const StepResult& result,
                                                 absl::Time now) {
  SPARSESERVE_CHECK(result.slices.size() == planned_.size());
  cost_.Observe(planned_work_, now - planned_at_);
  if (planned_work_.decode_rows > 0) forecast_.OutputTook(now - planned_at_);
  learned_at_ = now;
  std::vector<Output> outputs;
  outputs.reserve(planned_.size());
  for (size_t i = 0; i < planned_.size(); ++i) {
    Sequence& sequence = *planned_[i].sequence;
    if (result.slices[i].status.ok()) {
      pages_.Filled(sequence.claim(),
                    sequence.tokens().first(sequence.computed_tokens() +
                                            planned_[i].tokens));
    } else {
      pages_.Discard(sequence.claim());
    }
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
  std::vector<const PageClaim*> claims;
  for (const auto& runner : running_) {
    claims.push_back(&runner->sequence->claim());
  }
  return pages_.CheckInvariants(claims);
}

}  // namespace sparseserve
