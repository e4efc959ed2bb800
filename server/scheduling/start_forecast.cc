#include "server/scheduling/start_forecast.h"

#include <algorithm>

#include "server/scheduling/first_token_forecast.h"
#include "server/scheduling/preemption.h"

namespace sparseserve {
namespace {

// Of the latest step in the mean.
constexpr double kLatest = 0.02;
constexpr int kHangs = 3;
constexpr size_t kQueue = 2;
// Of the time that an answer has until its caller's deadline, so that it comes
// before that.
constexpr double kUsable = 0.8;

// Of its first output token, about.
StepWork TokenWork(const Sequence& sequence) {
  const double blocks =
      static_cast<double>(sequence.tokens().size()) / kPageTokens + 1;
  return {.decode_rows = 1, .decode_blocks = blocks};
}

// What the answer that it writes has for each token until its caller's
// deadline.
absl::Duration TimePerToken(const Sequence& sequence, absl::Time now) {
  const int left = sequence.least_output_left();
  return left == 0 ? absl::InfiniteDuration()
                   : kUsable * (sequence.request().deadline - now) / left;
}

}  // namespace

StartForecast::StartForecast(const Options& options, const StepCostModel& cost)
    : options_(options), cost_(cost), prompt_rows_(options.max_step_tokens) {}

void StartForecast::OutputTook(absl::Duration step) {
  // One that hangs says little of the next.
  step = std::min(step, kHangs * options_.step_time_target);
  token_lately_ += token_lately_ == absl::ZeroDuration()
                       ? step
                       : kLatest * (step - token_lately_);
}

void StartForecast::Look(absl::Span<const std::unique_ptr<Runner>> running,
                         absl::Time now) {
  decodes_ = {};
  coming_ = {};
  prompts_.clear();
  outputs_left_.clear();
  std::vector<absl::Duration> each;
  int taken = 0;
  for (const auto& runner : running) {
    if (runner->sequence == nullptr || runner->sequence->ended()) continue;
    const Sequence& sequence = *runner->sequence;
    ++taken;
    outputs_left_.push_back(sequence.output_left());
    if (sequence.is_decoding()) {
      decodes_ += sequence.WorkOf(1);
      each.push_back(sequence.request().target.time_per_output_token);
      // Best effort holds up nobody.
      if (!runner->rank.is_late) each.push_back(TimePerToken(sequence, now));
    } else {
      prompts_.push_back({runner->rank, sequence.WorkAhead()});
      coming_ += TokenWork(sequence);
    }
  }
  if (taken == 0) token_lately_ = absl::ZeroDuration();
  has_place_ = taken < options_.max_running_sequences;
  may_stop_late_ = !has_place_ && ChooseLateVictim(running) != nullptr;
  if (!has_place_) {
    std::sort(outputs_left_.begin(), outputs_left_.end());
    all_output_left_ = 0;
    for (const int left : outputs_left_) all_output_left_ += left;
  }

  time_limit_ = absl::InfiniteDuration();
  prompt_rows_ = options_.max_step_tokens;
  if (decodes_.decode_rows == 0) return;
  time_limit_ = options_.step_time_target;
  // What cannot be met with output tokens alone slows no prompts down.
  const absl::Duration alone =
      cost_.is_ready() ? cost_.PredictP95(decodes_) : absl::ZeroDuration();
  for (const absl::Duration time : each) {
    if (time >= alone) time_limit_ = std::min(time_limit_, time);
  }
  if (!cost_.is_ready()) return;
  prompt_rows_ = PromptRowsWithin(cost_, decodes_, time_limit_, kPageTokens,
                                  options_.max_step_tokens);
}

StepWork StartForecast::PromptsBefore(const Rank& rank) const {
  StepWork work;
  for (const Prompt& prompt : prompts_) {
    if (prompt.rank < rank) work += prompt.left;
  }
  return work;
}

// How fast sequences started lately tells when its turn comes. That fades while
// nobody starts, though a place becomes free when an answer ends: so it waits
// no longer than those that run, and those ahead, can come to write. Where each
// free place goes to the next, nobody waits longer for one than if all places
// shared that evenly (Graham, "Bounds on multiprocessing timing anomalies",
// 1969).
absl::Duration StartForecast::PlaceWait(const Backlog& ahead, bool is_late,
                                        absl::Time now) const {
  const double per_second = starts_.PerSecond(now);
  if (has_place_ || (!is_late && may_stop_late_) || per_second <= 0) {
    return absl::ZeroDuration();
  }
  double tokens =
      (all_output_left_ + ahead.output_tokens) / options_.max_running_sequences;
  if (ahead.requests < static_cast<int>(outputs_left_.size())) {
    tokens = std::min<double>(tokens, outputs_left_[ahead.requests]);
  }
  return std::min(absl::Seconds((ahead.requests + 1) / per_second),
                  cost_.Predict(decodes_) * tokens);
}

FirstTokenEstimate StartForecast::Estimate(const Sequence& sequence,
                                           const StepWork& prompts,
                                           absl::Duration place_wait) const {
  const StepWork own = sequence.WorkAhead();
  const LoadAhead load = {.prompts = prompts,
                          .decodes = decodes_,
                          .prompt_rows = prompt_rows_,
                          .place_wait = place_wait};
  FirstTokenEstimate estimate;
  estimate.expected = ForecastFirstToken(cost_, load, own);
  estimate.p95 = estimate.expected * cost_.margin();
  estimate.alone =
      ForecastFirstToken(cost_, {.prompt_rows = options_.max_step_tokens}, own);
  // As its first output token is expected to be: steps carry no more of prompts
  // than its target for each token leaves, if output alone leaves any.
  StepWork token = TokenWork(sequence);
  estimate.token_alone = cost_.Predict(token);
  token += decodes_;
  estimate.token_p95 = cost_.PredictP95(token);
  token += coming_;
  estimate.token_lately = cost_.Predict(token);
  if (decodes_.decode_rows > 0 || !prompts_.empty()) {
    estimate.token_lately = std::max(estimate.token_lately, token_lately_);
  }
  // Prompts that queue fill every step while it writes.
  if (prompts_.size() >= kQueue) {
    estimate.token_lately =
        std::max(estimate.token_lately,
                 std::min(time_limit_, options_.step_time_target));
  }
  return estimate;
}

std::optional<FirstTokenEstimate> StartForecast::OfWaiting(
    const Sequence& sequence, const Backlog& ahead, bool is_late,
    absl::Time now) const {
  if (!cost_.is_ready()) return std::nullopt;
  return Estimate(sequence, ahead.work, PlaceWait(ahead, is_late, now));
}

std::optional<FirstTokenEstimate> StartForecast::OfRunning(
    const Sequence& sequence) const {
  if (!cost_.is_ready()) return std::nullopt;
  return Estimate(sequence, {}, absl::ZeroDuration());
}

}  // namespace sparseserve
