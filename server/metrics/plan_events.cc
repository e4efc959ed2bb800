#include "server/metrics/plan_events.h"

#include "server/metrics/metrics.h"
#include "server/metrics/series.h"

namespace sparseserve {

void Metrics::PlanRan(Phase phase, int plan) {
  series_->Plan(plan).requests[Index(phase)]->Increment();
}

void Metrics::PlanTarget(const PlanTargetSample& sample) {
  PlanSeries::Plan& plan = series_->Plan(sample.plan);
  series_->plans
      .Targets(plan, PromptClass(sample.prompt_tokens))[sample.met ? 1 : 0]
      ->Increment();
  const bool is_late = sample.slack < absl::ZeroDuration();
  plan.slack[is_late ? 1 : 0]->Increment(
      series_->Seconds(absl::AbsDuration(sample.slack)));
}

void Metrics::PlanSwitched(Phase phase) {
  series_->plans.switches[Index(phase)]->Increment();
}

void Metrics::Predicted(PredictedQuantity quantity, absl::Duration p50,
                        absl::Duration p95, absl::Duration actual) {
  const size_t outcome = actual <= p50 ? 0 : (actual <= p95 ? 1 : 2);
  series_->plans.predictions[Index(quantity)][outcome]->Increment();
  series_->plans.errors[Index(quantity)][actual > p50 ? 1 : 0]->Increment(
      series_->Seconds(absl::AbsDuration(actual - p50)));
}

void Metrics::SetGuardState(int plan, GuardState state) {
  Each<Gauge, 3>& states = series_->Plan(plan).state;
  for (size_t i = 0; i < states.size(); ++i) {
    states[i]->Set(i == Index(state) ? 1 : 0);
  }
}

void Metrics::Demoted(int plan, DemotionCause cause) {
  series_->Plan(plan).demotions[Index(cause)]->Increment();
}

void Metrics::Promoted(int plan) {
  series_->Plan(plan).promotions->Increment();
}

void Metrics::GuardSampled(int64_t rows) {
  series_->plans.sampled_rows->Increment(series_->Count(rows));
}

void Metrics::SliceRedone(RedoCause cause) {
  series_->plans.redone_slices[Index(cause)]->Increment();
}

void Metrics::ShadowRun(int plan, ShadowOutcome outcome, double divergence) {
  PlanSeries::Plan& series = series_->Plan(plan);
  series.shadow_runs[Index(outcome)]->Increment();
  if (outcome == ShadowOutcome::kFailed) return;
  series.divergence->Increment(series_->Nats(divergence));
}

void Metrics::OutputEntropy(double nats) {
  series_->plans.entropy->Observe(series_->Nats(nats));
}

}  // namespace sparseserve
