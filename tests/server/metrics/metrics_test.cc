#include "server/metrics/metrics.h"

#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr char kGenerate[] = "sparseserve.v1.InferenceService/Generate";
constexpr double kAbsent = -1;

Metrics::Options SmallModel() {
  Metrics::Options options;
  options.model_name = "small";
  options.grpc_methods = {kGenerate};
  return options;
}

// The value of the series written exactly so, without the "sparseserve_".
double Value(const Metrics& metrics, const std::string& series) {
  const std::string text = metrics.Serialize();
  const std::string start = absl::StrCat("sparseserve_", series, " ");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    double value = 0;
    if (absl::StartsWith(line, start) &&
        absl::SimpleAtod(line.substr(start.size()), &value)) {
      return value;
    }
  }
  return kAbsent;
}

double Clamped(const Metrics& metrics) {
  return Value(metrics, "metrics_clamped_total");
}

RequestSample Answer() {
  RequestSample sample;
  sample.operation = Operation::kGenerate;
  sample.prompt_tokens = 1025;
  sample.output_tokens = 5;
  sample.queue = absl::Milliseconds(2);
  sample.prefill = absl::Milliseconds(498);
  sample.decode = absl::Milliseconds(400);
  sample.time_to_first_token = absl::Milliseconds(500);
  sample.time_per_output_token = absl::Milliseconds(100);
  sample.total = absl::Milliseconds(900);
  sample.prefill_blocks = {.computed = 30, .allowed = 100};
  return sample;
}

TEST(MetricsTest, SeriesExistAtZeroBeforeAnythingHappens) {
  const Metrics metrics(SmallModel());
  for (const char* series :
       {"requests_running", "requests_waiting", "kv_cache_usage_ratio",
        "model_requests_running{model_name=\"small\"}",
        "requests_rejected_total{model_name=\"small\",reason=\"quota\"}",
        "requests_finished_total{finish_reason=\"error\",model_name=\"small\","
        "operation=\"detokenize\"}",
        "requests_cancelled_total{cause=\"slow_consumer\",model_name=\"small\","
        "stage=\"write\"}",
        "time_to_first_token_seconds_count{model_name=\"small\",prompt_class="
        "\"gt_256k\"}",
        "latency_targets_total{model_name=\"small\",outcome=\"met\",target="
        "\"total\"}",
        "attention_blocks_total{model_name=\"small\",outcome=\"skipped\",phase="
        "\"decode\"}",
        "sparse_fallbacks_total{model_name=\"small\",phase=\"decode\",reason="
        "\"unsupported_mask\"}",
        "pattern_selection_seconds_count{model_name=\"small\",phase="
        "\"decode\"}",
        "grpc_server_calls_started_total{grpc_method=\"other\"}",
        "metrics_clamped_total"}) {
    EXPECT_EQ(Value(metrics, series), 0) << series;
  }
}

TEST(MetricsTest, FinishedRequestCountsInEveryHistogram) {
  Metrics metrics(SmallModel());
  metrics.Finished(Answer());
  EXPECT_EQ(Value(metrics,
                  "requests_finished_total{finish_reason=\"stop\",model_name="
                  "\"small\",operation=\"generate\"}"),
            1);
  EXPECT_EQ(Value(metrics,
                  "time_to_first_token_seconds_bucket{model_name=\"small\","
                  "prompt_class=\"le_4k\",le=\"0.5\"}"),
            1);
  EXPECT_EQ(Value(metrics,
                  "time_to_first_token_seconds_bucket{model_name=\"small\","
                  "prompt_class=\"le_4k\",le=\"0.25\"}"),
            0);
  EXPECT_EQ(Value(metrics,
                  "attention_density_ratio_sum{model_name=\"small\",phase="
                  "\"prefill\"}"),
            0.3);
  EXPECT_EQ(Value(metrics,
                  "attention_density_ratio_count{model_name=\"small\",phase="
                  "\"decode\"}"),
            0);
  EXPECT_EQ(
      Value(metrics, "request_generation_tokens_sum{model_name=\"small\"}"), 5);
  EXPECT_EQ(Clamped(metrics), 0);
}

TEST(MetricsTest, PromptClassBoundsAreInclusive) {
  for (const auto& [tokens, name] :
       std::vector<std::pair<int, std::string>>{{0, "le_1k"},
                                                {1024, "le_1k"},
                                                {1025, "le_4k"},
                                                {262144, "le_256k"},
                                                {262145, "gt_256k"}}) {
    Metrics metrics(SmallModel());
    RequestSample sample = Answer();
    sample.prompt_tokens = tokens;
    metrics.Finished(sample);
    EXPECT_EQ(
        Value(metrics, absl::StrCat("time_to_first_token_seconds_count{"
                                    "model_name=\"small\",prompt_class=\"",
                                    name, "\"}")),
        1)
        << tokens;
  }
}

TEST(MetricsTest, RequestWithoutTokensLeavesTokenTimesAlone) {
  Metrics metrics(SmallModel());
  RequestSample sample = Answer();
  sample.outcome = FinishOutcome::kCancelled;
  sample.time_to_first_token = absl::InfiniteDuration();
  sample.time_per_output_token = absl::InfiniteDuration();
  sample.wasted_tokens = 64;
  metrics.Finished(sample);
  EXPECT_EQ(Value(metrics,
                  "time_to_first_token_seconds_count{model_name=\"small\","
                  "prompt_class=\"le_4k\"}"),
            0);
  EXPECT_EQ(Value(metrics,
                  "time_per_output_token_seconds_count{model_name=\"small\"}"),
            0);
  EXPECT_EQ(Value(metrics,
                  "wasted_tokens_total{cause=\"cancelled\",model_name="
                  "\"small\"}"),
            64);
  EXPECT_EQ(Clamped(metrics), 0);
}

TEST(MetricsTest, StepFlushesItsTokenGapsAndBatch) {
  Metrics metrics(SmallModel());
  const std::vector<absl::Duration> gaps = {
      absl::Milliseconds(10), absl::Milliseconds(11), absl::Seconds(9)};
  StepSample sample;
  sample.duration = absl::Milliseconds(20);
  sample.times.attention = 0.25;
  sample.prefill_requests = 1;
  sample.decode_requests = 3;
  sample.prefill_tokens = 64;
  sample.decode_tokens = 3;
  sample.generated_tokens = 3;
  sample.decode_blocks = {.computed = 4, .allowed = 10};
  const size_t chosen = PatternSpec(XAttentionPattern()).index();
  sample.heads[0] = {6};
  sample.heads[0][chosen] = 84;
  sample.heads[1] = {270};
  sample.token_gaps = gaps;
  metrics.Step(sample);
  const std::string gap =
      "inter_token_latency_seconds_bucket{model_name="
      "\"small\",le=\"";
  EXPECT_EQ(Value(metrics, gap + "0.01\"}"), 1);
  EXPECT_EQ(Value(metrics, gap + "0.015\"}"), 2);
  EXPECT_EQ(Value(metrics, gap + "2.5\"}"), 2);
  EXPECT_EQ(Value(metrics, gap + "+Inf\"}"), 3);
  EXPECT_DOUBLE_EQ(
      Value(metrics, "inter_token_latency_seconds_sum{model_name=\"small\"}"),
      9.021);
  EXPECT_EQ(Value(metrics,
                  "engine_step_seconds_count{model_name=\"small\",phase="
                  "\"prefill\"}"),
            1);
  EXPECT_EQ(Value(metrics,
                  "attention_blocks_total{model_name=\"small\",outcome="
                  "\"skipped\",phase=\"decode\"}"),
            6);
  EXPECT_EQ(Value(metrics,
                  "attention_heads_total{model_name=\"small\",pattern="
                  "\"dense\",phase=\"decode\"}"),
            270);
  EXPECT_EQ(Value(metrics,
                  "attention_heads_total{model_name=\"small\",pattern="
                  "\"xattention\",phase=\"prefill\"}"),
            84);
  EXPECT_EQ(Value(metrics,
                  "attention_heads_total{model_name=\"small\",pattern="
                  "\"dense\",phase=\"prefill\"}"),
            6);
  EXPECT_EQ(Value(metrics,
                  "attention_heads_total{model_name=\"small\",pattern="
                  "\"xattention\",phase=\"decode\"}"),
            0);
  EXPECT_EQ(Value(metrics,
                  "stage_busy_seconds_total{model_name=\"small\",stage="
                  "\"attention\"}"),
            0.25);
}

TEST(MetricsTest, SelectionIsOfTheStepsThatSelect) {
  Metrics metrics(SmallModel());
  StepSample sample;
  sample.prefill_requests = 1;
  sample.prefill_tokens = 64;
  metrics.Step(sample);
  sample.times.selection = 0.002;
  metrics.Step(sample);
  EXPECT_EQ(Value(metrics,
                  "pattern_selection_seconds_count{model_name=\"small\",phase="
                  "\"prefill\"}"),
            1);
  EXPECT_EQ(Value(metrics,
                  "pattern_selection_seconds_bucket{model_name=\"small\",phase="
                  "\"prefill\",le=\"0.0025\"}"),
            1);
  EXPECT_EQ(Value(metrics,
                  "stage_busy_seconds_total{model_name=\"small\",stage="
                  "\"selection\"}"),
            0.002);
}

TEST(MetricsTest, AFallbackCountsInThePhasesThatRan) {
  Metrics metrics(SmallModel());
  metrics.Finished(Answer());
  RequestSample sample = Answer();
  sample.fallback = FallbackReason::kRequestOverride;
  metrics.Finished(sample);
  const auto count = [&metrics](const char* phase, const char* reason) {
    return Value(metrics, absl::StrCat("sparse_fallbacks_total{model_name="
                                       "\"small\",phase=\"",
                                       phase, "\",reason=\"", reason, "\"}"));
  };
  EXPECT_EQ(count("prefill", "request_override"), 1);
  EXPECT_EQ(count("decode", "request_override"), 0);
  EXPECT_EQ(count("prefill", "not_calibrated"), 0);
  sample.decode_blocks = {.computed = 4, .allowed = 4};
  sample.fallback = FallbackReason::kNotCalibrated;
  metrics.Finished(sample);
  EXPECT_EQ(count("prefill", "not_calibrated"), 1);
  EXPECT_EQ(count("decode", "not_calibrated"), 1);
}

TEST(MetricsTest, SharesOfRecallAreCountedByPattern) {
  Metrics metrics(SmallModel());
  const int pattern =
      static_cast<int>(PatternSpec(XAttentionPattern()).index());
  metrics.Recall(pattern, {0.5f, 0.75f, 1.0f});
  metrics.Recall(pattern, {});
  const std::string name =
      "attention_recall_estimate_ratio_bucket{model_name=\"small\",pattern="
      "\"xattention\",le=\"";
  EXPECT_EQ(Value(metrics, name + "0.5\"}"), 1);
  EXPECT_EQ(Value(metrics, name + "0.8\"}"), 2);
  EXPECT_EQ(Value(metrics, name + "1\"}"), 3);
  EXPECT_EQ(Value(metrics, name + "+Inf\"}"), 3);
  EXPECT_EQ(Clamped(metrics), 0);
  metrics.Recall(pattern,
                 {std::numeric_limits<float>::quiet_NaN(), 1.5f, -0.5f});
  EXPECT_EQ(Clamped(metrics), 3);
  EXPECT_EQ(Value(metrics, name + "1\"}"), 6);
}

TEST(MetricsTest, CallsOfUnknownMethodsCountAsOther) {
  Metrics metrics(SmallModel());
  metrics.CallStarted(absl::StrCat("/", kGenerate));
  metrics.CallStarted("no.such.Service/\n");
  metrics.CallStarted("other");
  metrics.CallFinished("no.such.Service/\n", 12, absl::Milliseconds(1));
  EXPECT_EQ(Value(metrics, absl::StrCat("grpc_server_calls_started_total{"
                                        "grpc_method=\"",
                                        kGenerate, "\"}")),
            1);
  EXPECT_EQ(
      Value(metrics, "grpc_server_calls_started_total{grpc_method=\"other\"}"),
      2);
  EXPECT_EQ(Value(metrics,
                  "grpc_server_call_duration_seconds_count{grpc_method="
                  "\"other\",grpc_status=\"UNIMPLEMENTED\"}"),
            1);
}

TEST(MetricsTest, TargetsCountAsMetOrMissed) {
  Metrics metrics(SmallModel());
  metrics.TargetOutcome(TargetKind::kTimeToFirstToken, true);
  metrics.TargetOutcome(TargetKind::kTotal, false);
  EXPECT_EQ(Value(metrics,
                  "latency_targets_total{model_name=\"small\",outcome=\"met\","
                  "target=\"time_to_first_token\"}"),
            1);
  EXPECT_EQ(Value(metrics,
                  "latency_targets_total{model_name=\"small\",outcome="
                  "\"missed\",target=\"total\"}"),
            1);
}

TEST(MetricsTest, UsageIsTheShareOfPagesInUse) {
  Metrics metrics(SmallModel());
  metrics.SetPages(1, 3);
  EXPECT_EQ(Value(metrics, "kv_cache_usage_ratio"), 0.25);
  metrics.SetPages(0, 0);
  EXPECT_EQ(Value(metrics, "kv_cache_usage_ratio"), 0);
}

TEST(MetricsTest, CachedPagesAreCountedAndNotInUse) {
  Metrics metrics(SmallModel());
  metrics.SetPages(1, 3, 4);
  EXPECT_EQ(Value(metrics, "kv_cache_usage_ratio"), 0.125);
  EXPECT_EQ(Value(metrics,
                  "kv_cache_pages{model_name=\"small\",state=\"cached\",tier="
                  "\"device\"}"),
            4);
}

TEST(MetricsTest, MemoryOfPagesIsSplitByTheirState) {
  Metrics metrics(SmallModel());
  const auto bytes = [&](const std::string& kind) {
    return Value(metrics, "memory_bytes{device=\"\",kind=\"" + kind + "\"}");
  };
  metrics.SetMemory({.weights = 7, .kv = 800, .summaries = 12});
  EXPECT_EQ(bytes("kv_free"), 800);
  EXPECT_EQ(bytes("kv_used"), 0);
  EXPECT_EQ(bytes("summaries"), 12);
  metrics.SetPages(1, 4, 3);
  EXPECT_EQ(bytes("kv_used"), 100);
  EXPECT_EQ(bytes("kv_free"), 400);
  EXPECT_EQ(bytes("kv_cached"), 300);
  EXPECT_EQ(bytes("weights"), 7);
}

TEST(MetricsTest, LoadTimesAreByStage) {
  Metrics metrics(SmallModel());
  metrics.SetLoadTime(LoadStage::kConvert, absl::Seconds(3));
  EXPECT_EQ(Value(metrics,
                  "model_load_duration_seconds{model_name=\"small\",stage="
                  "\"convert\"}"),
            3);
  EXPECT_EQ(Value(metrics,
                  "model_load_duration_seconds{model_name=\"small\",stage="
                  "\"read\"}"),
            0);
}

TEST(MetricsTest, CostsOfStepsAreByTerm) {
  Metrics metrics(SmallModel());
  metrics.SetStepCosts({0.5, 0.25, 0.125, 0.0625, 2});
  const auto value = [&](const std::string& term) {
    return Value(metrics, "step_cost_seconds{model_name=\"small\",term=\"" +
                              term + "\"}");
  };
  EXPECT_EQ(value("constant"), 0.5);
  EXPECT_EQ(value("decode_row"), 0.25);
  EXPECT_EQ(value("prompt_row"), 0.125);
  EXPECT_EQ(value("decode_block"), 0.0625);
  EXPECT_EQ(value("prompt_block"), 2);
}

TEST(MetricsTest, HitsOfThePrefixCacheAreTokensBySource) {
  Metrics metrics(SmallModel());
  metrics.PrefixCache(
      {.query_tokens = 200, .hit_tokens = 128, .evicted_pages = 3});
  metrics.PrefixCache({.query_tokens = 100});
  const auto value = [&](const std::string& name, const std::string& more) {
    return Value(metrics, name + "{model_name=\"small\"" + more + "}");
  };
  EXPECT_EQ(value("prefix_cache_query_tokens_total", ""), 300);
  EXPECT_EQ(value("prefix_cache_hit_tokens_total", ""), 128);
  EXPECT_EQ(value("prompt_tokens_total", ",source=\"prefix_cache\""), 128);
  EXPECT_EQ(value("prompt_tokens_total", ",source=\"computed\""), 0);
  EXPECT_EQ(value("kv_cache_evicted_pages_total", ",tier=\"device\""), 3);
}

TEST(MetricsTest, ImpossibleValuesAreClampedAndCounted) {
  Metrics metrics(SmallModel());
  metrics.PhaseTime(RequestPhase::kTokenize, absl::Seconds(-1));
  EXPECT_EQ(Clamped(metrics), 1);
  metrics.PhaseTime(RequestPhase::kTokenize, absl::InfiniteDuration());
  EXPECT_EQ(Clamped(metrics), 2);
  metrics.SetWaiting(-3);
  EXPECT_EQ(Clamped(metrics), 3);
  EXPECT_EQ(Value(metrics, "requests_waiting"), 0);
  metrics.CallFinished(kGenerate, 99, absl::Seconds(1));
  EXPECT_EQ(Clamped(metrics), 4);
  metrics.AddBufferedBytes(-8);
  EXPECT_EQ(Clamped(metrics), 5);
  EXPECT_EQ(Value(metrics, "stream_buffered_bytes"), 0);
  StepSample sample;
  sample.times.mlp = std::numeric_limits<double>::quiet_NaN();
  sample.generated_tokens = -2;
  metrics.Step(sample);
  EXPECT_EQ(Clamped(metrics), 7);
}

TEST(MetricsTest, CorrectionsMayVisitMoreBlocksThanTheMaskAllows) {
  Metrics metrics(SmallModel());
  RequestSample request = Answer();
  request.prefill_blocks = {.computed = 9, .allowed = 8};
  metrics.Finished(request);
  const std::string density = "attention_density_ratio_";
  const std::string labels = "{model_name=\"small\",phase=\"prefill\"";
  EXPECT_EQ(Value(metrics, density + "sum" + labels + "}"), 1.125);
  EXPECT_EQ(Value(metrics, density + "bucket" + labels + ",le=\"1\"}"), 0);
  EXPECT_EQ(Value(metrics, density + "bucket" + labels + ",le=\"+Inf\"}"), 1);
  StepSample sample;
  sample.prefill_requests = 1;
  sample.prefill_blocks = {.computed = 9, .allowed = 8};
  metrics.Step(sample);
  const auto blocks = [&](const std::string& outcome) {
    return Value(metrics,
                 "attention_blocks_total{model_name=\"small\",outcome="
                 "\"" +
                     outcome + "\",phase=\"prefill\"}");
  };
  EXPECT_EQ(blocks("computed"), 9);
  EXPECT_EQ(blocks("skipped"), 0);
  EXPECT_EQ(Clamped(metrics), 0);
}

TEST(MetricsTest, SaysWhoWasRefusedAndWhatWasReloaded) {
  Metrics metrics(SmallModel());
  metrics.AuthFailed(AuthFailure::kModelNotAllowed);
  metrics.SetCertificateExpiry(absl::FromUnixSeconds(1'900'000'000));
  metrics.CertificateReloaded(true);
  metrics.CertificateReloaded(false);
  metrics.CertificateReloaded(false);
  metrics.SecurityFileReloaded(SecurityFile::kJwtKeys, false);
  EXPECT_EQ(Value(metrics, "auth_failures_total{reason=\"no_credential\"}"), 0);
  EXPECT_EQ(Value(metrics, "auth_failures_total{reason=\"model_not_allowed\"}"),
            1);
  EXPECT_EQ(Value(metrics, "tls_certificate_expiry_timestamp_seconds"),
            1'900'000'000);
  EXPECT_EQ(Value(metrics, "tls_certificate_reloads_total{outcome=\"loaded\"}"),
            1);
  EXPECT_EQ(
      Value(metrics, "tls_certificate_reloads_total{outcome=\"refused\"}"), 2);
  EXPECT_EQ(Value(metrics,
                  "security_file_reloads_total{file=\"jwt_keys\",outcome="
                  "\"refused\"}"),
            1);
}

TEST(MetricsTest, ThreadsMayReportAndScrapeAtOnce) {
  Metrics metrics(SmallModel());
  constexpr int kThreads = 4;
  constexpr int kCalls = 200;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&metrics] {
      for (int i = 0; i < kCalls; ++i) {
        metrics.CallStarted(kGenerate);
        metrics.AddBufferedBytes(2);
        metrics.CallFinished(kGenerate, i % 17, absl::Milliseconds(i));
        metrics.AddBufferedBytes(-1);
        metrics.Finished(Answer());
        metrics.Step({});
      }
    });
  }
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(metrics.Serialize(), ::testing::HasSubstr("build_info"));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Value(metrics, absl::StrCat("grpc_server_calls_started_total{"
                                        "grpc_method=\"",
                                        kGenerate, "\"}")),
            kThreads * kCalls);
  EXPECT_EQ(Value(metrics, "stream_buffered_bytes"), kThreads * kCalls);
  EXPECT_EQ(Clamped(metrics), 0);
}

}  // namespace
}  // namespace sparseserve
