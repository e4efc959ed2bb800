#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "server/metrics/metrics.h"

namespace sparseserve {
namespace {

constexpr int kDense = 0, kBalanced = 1, kFast = 2;
constexpr double kAbsent = -1;

using LabelMap = std::map<std::string, std::string>;

class PlanMetricsTest : public ::testing::Test {
 protected:
  static Metrics::Options Plans() {
    Metrics::Options options;
    options.model_name = "small";
    options.plans = {"dense", "balanced", "fast"};
    return options;
  }

  // Of the series with these labels and the model's.
  double Value(const std::string& name, LabelMap labels = {}) const {
    labels["model_name"] = "small";
    std::vector<std::string> pairs;
    for (const auto& [label, value] : labels) {
      pairs.push_back(absl::StrCat(label, "=\"", value, "\""));
    }
    const std::string start = absl::StrCat("sparseserve_", name, "{",
                                           absl::StrJoin(pairs, ","), "} ");
    const std::string text = metrics_.Serialize();
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      double value = 0;
      if (absl::StartsWith(line, start) &&
          absl::SimpleAtod(line.substr(start.size()), &value)) {
        return value;
      }
    }
    return kAbsent;
  }

  // Of the process.
  double Clamped() const {
    const std::string text = metrics_.Serialize();
    const std::string start = "sparseserve_metrics_clamped_total ";
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      double value = 0;
      if (absl::StartsWith(line, start) &&
          absl::SimpleAtod(line.substr(start.size()), &value)) {
        return value;
      }
    }
    return kAbsent;
  }

  Metrics metrics_{Plans()};
};

TEST_F(PlanMetricsTest, SeriesOfEveryPlanExistAtZero) {
  for (const char* plan : {"dense", "balanced", "fast"}) {
    EXPECT_EQ(
        Value("plan_requests_total", {{"phase", "decode"}, {"plan", plan}}), 0);
    EXPECT_EQ(
        Value("guard_plan_state", {{"plan", plan}, {"state", "certified"}}), 0);
    EXPECT_EQ(Value("shadow_divergence_nats_total", {{"plan", plan}}), 0);
  }
  EXPECT_EQ(Value("guard_sampled_rows_total"), 0);
  EXPECT_EQ(Value("output_entropy_nats_count"), 0);
}

TEST_F(PlanMetricsTest, RequestsCountByPhaseAndPlan) {
  metrics_.PlanRan(Phase::kPrefill, kFast);
  metrics_.PlanRan(Phase::kPrefill, kFast);
  metrics_.PlanRan(Phase::kDecode, kDense);
  metrics_.PlanSwitched(Phase::kDecode);
  const auto requests = [&](const char* phase, const char* plan) {
    return Value("plan_requests_total", {{"phase", phase}, {"plan", plan}});
  };
  EXPECT_EQ(requests("prefill", "fast"), 2);
  EXPECT_EQ(requests("decode", "dense"), 1);
  EXPECT_EQ(requests("decode", "fast"), 0);
  EXPECT_EQ(Value("plan_switches_total", {{"phase", "decode"}}), 1);
  EXPECT_EQ(Value("plan_switches_total", {{"phase", "prefill"}}), 0);
}

TEST_F(PlanMetricsTest, SlackOfTargetsIsEarlyOrLate) {
  metrics_.PlanTarget({.plan = kBalanced,
                       .prompt_tokens = 1025,
                       .met = true,
                       .slack = absl::Milliseconds(250)});
  metrics_.PlanTarget({.plan = kBalanced,
                       .prompt_tokens = 10,
                       .met = false,
                       .slack = absl::Milliseconds(-500)});
  const auto targets = [&](const char* prompt_class, const char* outcome) {
    return Value("plan_targets_total", {{"plan", "balanced"},
                                        {"prompt_class", prompt_class},
                                        {"outcome", outcome}});
  };
  EXPECT_EQ(targets("le_4k", "met"), 1);
  EXPECT_EQ(targets("le_4k", "missed"), 0);
  EXPECT_EQ(targets("le_1k", "missed"), 1);
  const auto slack = [&](const char* sign) {
    return Value("plan_slack_seconds_total",
                 {{"plan", "balanced"}, {"sign", sign}});
  };
  EXPECT_EQ(slack("early"), 0.25);
  EXPECT_EQ(slack("late"), 0.5);
  EXPECT_EQ(Clamped(), 0);
}

TEST_F(PlanMetricsTest, PredictionsAreWithinTheirPercentilesOrBeyond) {
  const auto predict = [&](int actual_ms) {
    metrics_.Predicted(PredictedQuantity::kTimeToFirstToken,
                       absl::Milliseconds(1000), absl::Milliseconds(2000),
                       absl::Milliseconds(actual_ms));
  };
  for (const int actual : {500, 1000, 1500, 2000, 2500}) predict(actual);
  const auto outcomes = [&](const char* outcome) {
    return Value("predictions_total",
                 {{"quantity", "time_to_first_token"}, {"outcome", outcome}});
  };
  EXPECT_EQ(outcomes("within_p50"), 2);
  EXPECT_EQ(outcomes("within_p95"), 2);
  EXPECT_EQ(outcomes("beyond"), 1);
  const auto error = [&](const char* sign) {
    return Value("prediction_error_seconds_total",
                 {{"quantity", "time_to_first_token"}, {"sign", sign}});
  };
  EXPECT_EQ(error("early"), 0.5);
  EXPECT_EQ(error("late"), 3);
  EXPECT_EQ(Value("predictions_total", {{"quantity", "time_per_output_token"},
                                        {"outcome", "beyond"}}),
            0);
}

TEST_F(PlanMetricsTest, APlanIsInOneStateOfTheGuard) {
  const auto state = [&](const char* name) {
    return Value("guard_plan_state", {{"plan", "fast"}, {"state", name}});
  };
  metrics_.SetGuardState(kFast, GuardState::kUnproven);
  EXPECT_EQ(state("unproven"), 1);
  metrics_.SetGuardState(kFast, GuardState::kDemoted);
  EXPECT_EQ(state("unproven"), 0);
  EXPECT_EQ(state("demoted"), 1);
  EXPECT_EQ(state("certified"), 0);
  EXPECT_EQ(
      Value("guard_plan_state", {{"plan", "balanced"}, {"state", "demoted"}}),
      0);
}

TEST_F(PlanMetricsTest, WhatTheGuardDoesIsCounted) {
  metrics_.Demoted(kFast, DemotionCause::kDivergence);
  metrics_.Promoted(kFast);
  metrics_.GuardSampled(64);
  metrics_.GuardSampled(32);
  metrics_.SliceRedone(RedoCause::kNumeric);
  EXPECT_EQ(Value("guard_demotions_total",
                  {{"plan", "fast"}, {"cause", "divergence"}}),
            1);
  EXPECT_EQ(
      Value("guard_demotions_total", {{"plan", "fast"}, {"cause", "recall"}}),
      0);
  EXPECT_EQ(Value("guard_promotions_total", {{"plan", "fast"}}), 1);
  EXPECT_EQ(Value("guard_sampled_rows_total"), 96);
  EXPECT_EQ(Value("guard_redone_slices_total", {{"cause", "numeric"}}), 1);
  EXPECT_EQ(Value("guard_redone_slices_total", {{"cause", "recall"}}), 0);
}

TEST_F(PlanMetricsTest, DivergenceIsOfShadowRunsThatEnded) {
  metrics_.ShadowRun(kFast, ShadowOutcome::kWithin, 0.25);
  metrics_.ShadowRun(kFast, ShadowOutcome::kAbove, 0.5);
  metrics_.ShadowRun(kFast, ShadowOutcome::kFailed,
                     std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(Value("shadow_divergence_nats_total", {{"plan", "fast"}}), 0.75);
  for (const char* outcome : {"within", "above", "failed"}) {
    EXPECT_EQ(
        Value("shadow_runs_total", {{"plan", "fast"}, {"outcome", outcome}}), 1)
        << outcome;
  }
  EXPECT_EQ(Clamped(), 0);
}

TEST_F(PlanMetricsTest, EntropyIsInNats) {
  metrics_.OutputEntropy(1.5);
  metrics_.OutputEntropy(0.25);
  EXPECT_EQ(Value("output_entropy_nats_sum"), 1.75);
  EXPECT_EQ(Value("output_entropy_nats_count"), 2);
}

TEST_F(PlanMetricsTest, ImpossibleValuesAreClampedAndCounted) {
  metrics_.PlanRan(Phase::kPrefill, -1);
  metrics_.PlanRan(Phase::kPrefill, 3);
  EXPECT_EQ(Clamped(), 2);
  EXPECT_EQ(
      Value("plan_requests_total", {{"phase", "prefill"}, {"plan", "dense"}}),
      1);
  EXPECT_EQ(
      Value("plan_requests_total", {{"phase", "prefill"}, {"plan", "fast"}}),
      1);
  metrics_.GuardSampled(-5);
  metrics_.OutputEntropy(std::numeric_limits<double>::quiet_NaN());
  metrics_.ShadowRun(kFast, ShadowOutcome::kAbove,
                     std::numeric_limits<double>::infinity());
  metrics_.PlanTarget({.plan = kFast, .slack = absl::InfiniteDuration()});
  metrics_.Predicted(PredictedQuantity::kTimePerOutputToken, absl::Seconds(1),
                     absl::Seconds(2), absl::InfiniteDuration());
  EXPECT_EQ(Clamped(), 7);
}

TEST(PlanMetricsOptionsTest, NoMorePlansThanTheBudgetAllows) {
  Metrics::Options options;
  options.model_name = "small";
  options.plans = {"dense"};
  for (int i = 0; i < 40; ++i) options.plans.push_back(absl::StrCat("p", i));
  Metrics metrics(options);
  const std::string text = metrics.Serialize();
  EXPECT_TRUE(absl::StrContains(text, "plan=\"p31\""));
  EXPECT_FALSE(absl::StrContains(text, "plan=\"p32\""));
}

TEST(PlanMetricsOptionsTest, WithoutNamesThereIsDense) {
  Metrics::Options options;
  options.plans = {};
  Metrics metrics(options);
  metrics.PlanRan(Phase::kDecode, kDense);
  EXPECT_TRUE(absl::StrContains(metrics.Serialize(),
                                "plan_requests_total{model_name=\"\",phase="
                                "\"decode\",plan=\"dense\"} 1"));
}

}  // namespace
}  // namespace sparseserve
