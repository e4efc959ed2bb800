#include "server/metrics/plan_series.h"

#include "server/metrics/buckets.h"

namespace sparseserve {
namespace {

// What a profile may hold, and dense.
constexpr size_t kMaxPlans = 33;

std::vector<std::string> PlanLabels(const std::vector<std::string>& names) {
  std::vector<std::string> labels;
  for (const std::string& name : names) {
    if (labels.size() < kMaxPlans) labels.push_back(LabelValue(name));
  }
  if (labels.empty()) labels = {"dense"};
  return labels;
}

}  // namespace

PlanSeries::PlanSeries(const SeriesFactory& make,
                       const std::vector<std::string>& names)
    : targets(make.Counter("plan_targets_total",
                           "Latency targets that the plan of a request was "
                           "chosen by, by whether "
                           "they were met.")) {
  const auto requests = make.Counter(
      "plan_requests_total",
      "Requests, once for each phase that ran, by the plan that it ran with.");
  const auto slack = make.Counter(
      "plan_slack_seconds_total",
      "Time by which requests were earlier or later than their targets.");
  const auto state = make.Gauge("guard_plan_state",
                                "1 for the state that the quality guard holds "
                                "a plan in.");
  const auto demotions = make.Counter(
      "guard_demotions_total", "Plans that the quality guard took out of use.");
  const auto promotions = make.Counter(
      "guard_promotions_total", "Plans that the quality guard took in again.");
  const auto shadow_runs =
      make.Counter("shadow_runs_total",
                   "Dense runs beside requests, by what their divergence was.");
  const auto divergence = make.Counter(
      "shadow_divergence_nats_total",
      "Sum over shadow runs of the mean divergence from the dense run, in nats "
      "a token.");
  for (const std::string& label : PlanLabels(names)) {
    const prometheus::Labels plan = {{"plan", label}};
    Plan series;
    series.requests = requests.Each("phase", kPhaseNames, plan);
    series.label = label;
    series.slack = slack.Each("sign", kSigns, plan);
    series.state = state.Each("state", kGuardStates, plan);
    series.demotions = demotions.Each("cause", kDemotionCauses, plan);
    series.promotions = promotions.One(plan);
    series.shadow_runs = shadow_runs.Each("outcome", kShadowOutcomes, plan);
    series.divergence = divergence.One(plan);
    plans.push_back(series);
  }
  predictions = make.Counter("predictions_total",
                             "Predicted latencies, by where the actual one lay "
                             "among the predicted percentiles.")
                    .Grid("quantity", kPredictedQuantities, "outcome",
                          kPredictionOutcomes);
  errors = make.Counter("prediction_error_seconds_total",
                        "Time by which actual latencies were earlier or later "
                        "than their predicted medians.")
               .Grid("quantity", kPredictedQuantities, "sign", kSigns);
  switches = make.Counter("plan_switches_total",
                          "Changes of a running request's plan.")
                 .Each("phase", kPhaseNames);
  sampled_rows = make.Counter("guard_sampled_rows_total",
                              "Rows whose recall the quality guard sampled.")
                     .One();
  redone_slices =
      make.Counter("guard_redone_slices_total",
                   "Slices that ran densely once more, by what was wrong.")
          .Each("cause", kRedoCauses);
  entropy = make.Histogram("output_entropy_nats",
                           "Mean entropy of the distributions that a request's "
                           "tokens were drawn from.",
                           EntropyBuckets())
                .One();
}

PlanSeries::Each<prometheus::Counter, 2> PlanSeries::Targets(
    const Plan& plan, size_t prompt_class) const {
  return targets.Each(
      "outcome", kTargetOutcomes,
      {{"plan", plan.label}, {"prompt_class", kPromptClasses[prompt_class]}});
}

}  // namespace sparseserve
