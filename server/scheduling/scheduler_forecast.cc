// Whether time is enough for those whom the Scheduler holds.

#include <algorithm>

#include "server/scheduling/first_token_forecast.h"
#include "server/scheduling/scheduler.h"

namespace sparseserve {

StepWork Scheduler::PromptsLeft() const {
  StepWork left;
  for (const auto& runner : running_) {
    const Sequence& sequence = *runner->sequence;
    if (sequence.ended() || sequence.is_decoding()) continue;
    left += sequence.WorkAhead();
  }
  return left;
}

std::optional<FirstTokenEstimate> Scheduler::Estimate(
    const Sequence& sequence, const WaitingLine::Backlog& ahead,
    absl::Time now) const {
  if (!cost_.is_ready()) return std::nullopt;
  const StepWork own = sequence.WorkAhead();
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

bool Scheduler::StillHolds(Forecast forecast, Sequence& sequence,
                           absl::Time now) const {
  if (!(this->*forecast)(sequence, now)) return false;
  ExpectHit(sequence);
  return (this->*forecast)(sequence, now);
}

}  // namespace sparseserve
