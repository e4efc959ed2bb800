#include "server/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "prometheus/client_metric.h"
#include "prometheus/metric_family.h"
#include "prometheus/metric_type.h"
#include "prometheus/text_serializer.h"
#include "server/metrics/buckets.h"
#include "server/metrics/series.h"

namespace sparseserve {
namespace {

// With one lock for all of them.
void ObserveAll(const std::vector<double>& values,
                const std::vector<double>& bounds, Histogram& histogram) {
  if (values.empty()) return;
  std::vector<double> increments(bounds.size() + 1, 0.0);
  double sum = 0;
  for (const double value : values) {
    const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), value);
    increments[bucket - bounds.begin()] += 1;
    sum += value;
  }
  histogram.ObserveMultiple(increments, sum);
}

std::vector<prometheus::MetricFamily> CollectAll(
    const prometheus::Registry& registry, const ProcessCollector& process) {
  std::vector<prometheus::MetricFamily> families = registry.Collect();
  for (prometheus::MetricFamily& family : process.Collect()) {
    families.push_back(std::move(family));
  }
  return families;
}

Distribution DistributionOf(const prometheus::ClientMetric::Histogram& from) {
  Distribution result;
  result.sum = from.sample_sum;
  double below = 0;
  for (const prometheus::ClientMetric::Bucket& bucket : from.bucket) {
    if (std::isfinite(bucket.upper_bound)) {
      result.bounds.push_back(bucket.upper_bound);
    }
    const auto up_to = static_cast<double>(bucket.cumulative_count);
    result.counts.push_back(up_to - below);
    below = up_to;
  }
  return result;
}

MetricsSnapshot::Series SeriesOf(prometheus::MetricType type,
                                 prometheus::ClientMetric metric) {
  MetricsSnapshot::Series series;
  for (prometheus::ClientMetric::Label& label : metric.label) {
    series.labels.emplace_back(std::move(label.name), std::move(label.value));
  }
  switch (type) {
    case prometheus::MetricType::Counter:
      series.value = metric.counter.value;
      break;
    case prometheus::MetricType::Gauge:
      series.value = metric.gauge.value;
      break;
    case prometheus::MetricType::Histogram:
      series.distribution = DistributionOf(metric.histogram);
      break;
    default:  // we make no others
      break;
  }
  return series;
}

}  // namespace

Metrics::Metrics(const Options& options)
    : series_(std::make_unique<Series>(options)) {}

Metrics::~Metrics() = default;

std::string Metrics::Serialize() const {
  return prometheus::TextSerializer().Serialize(
      CollectAll(*series_->registry, *series_->process));
}

MetricsSnapshot Metrics::Snapshot() const {
  MetricsSnapshot snapshot;
  for (prometheus::MetricFamily& family :
       CollectAll(*series_->registry, *series_->process)) {
    std::vector<MetricsSnapshot::Series>& series =
        snapshot.families[std::move(family.name)];
    for (prometheus::ClientMetric& metric : family.metric) {
      series.push_back(SeriesOf(family.type, std::move(metric)));
    }
  }
  return snapshot;
}

void Metrics::CallStarted(const std::string& method) {
  series_->calls.Find(method).started->Increment();
}

void Metrics::CallFinished(const std::string& method, int grpc_status,
                           absl::Duration duration) {
  constexpr int kUnknown = 2;
  if (grpc_status < 0 || grpc_status >= kGrpcStatuses) {
    series_->state.clamped->Increment();
    grpc_status = kUnknown;
  }
  CallSeries& calls = series_->calls;
  calls.Duration(calls.Find(method), grpc_status)
      .Observe(series_->Seconds(duration));
}

void Metrics::StreamBlocked(const std::string& method,
                            absl::Duration duration) {
  CallSeries& calls = series_->calls;
  calls.Blocked(calls.Find(method)).Observe(series_->Seconds(duration));
}

void Metrics::AddBufferedBytes(int64_t delta) {
  MutexLock lock(series_->mu);
  series_->buffered_bytes += delta;
  series_->state.buffered_bytes->Set(series_->Count(series_->buffered_bytes));
}

void Metrics::LogLineDropped() {
  series_->state.dropped_log_lines->Increment();
}

void Metrics::Rejected(RejectReason reason) {
  series_->outcomes.rejected[Index(reason)]->Increment();
}

void Metrics::Cancelled(CancelStage stage, CancelCause cause) {
  series_->outcomes.cancelled[Index(stage)][Index(cause)]->Increment();
}

void Metrics::Finished(const RequestSample& sample) {
  const size_t operation = Index(sample.operation);
  series_->outcomes.finished[operation][Index(sample.outcome)]->Increment();
  series_->times.queue->Observe(series_->Seconds(sample.queue));
  series_->times.duration[operation]->Observe(series_->Seconds(sample.total));
  series_->work.prompt_tokens->Observe(series_->Count(sample.prompt_tokens));
  series_->work.generation_tokens->Observe(
      series_->Count(sample.output_tokens));
  series_->work.wasted_tokens[0]->Increment(
      series_->Count(sample.wasted_tokens));
  if (sample.time_to_first_token != absl::InfiniteDuration()) {
    series_->times.first_token[PromptClass(sample.prompt_tokens)]->Observe(
        series_->Seconds(sample.time_to_first_token));
    PhaseTime(RequestPhase::kPrefill, sample.prefill);
  }
  if (sample.time_per_output_token != absl::InfiniteDuration()) {
    series_->times.per_output_token->Observe(
        series_->Seconds(sample.time_per_output_token));
    PhaseTime(RequestPhase::kDecode, sample.decode);
  }
  const AttentionBlocks blocks[kPhases] = {sample.prefill_blocks,
                                           sample.decode_blocks};
  for (int p = 0; p < kPhases; ++p) {
    const double allowed = series_->Count(blocks[p].allowed);
    const double computed = series_->Count(blocks[p].computed);
    if (allowed == 0) continue;
    // Above 1 where correcting a pattern visits more than it leaves out.
    series_->work.density[p]->Observe(computed / allowed);
    if (sample.fallback == FallbackReason::kNone) continue;
    static_assert(kFallbackReasons.size() ==
                  Index(FallbackReason::kRequestOverride));
    series_->work.fallbacks[p][Index(sample.fallback) - 1]->Increment();
  }
}

void Metrics::Answered(Operation operation, FinishOutcome outcome,
                       absl::Duration duration) {
  series_->outcomes.finished[Index(operation)][Index(outcome)]->Increment();
  series_->times.duration[Index(operation)]->Observe(
      series_->Seconds(duration));
}

void Metrics::PhaseTime(RequestPhase phase, absl::Duration duration) {
  series_->times.phase[Index(phase)]->Observe(series_->Seconds(duration));
}

void Metrics::TargetOutcome(TargetKind target, bool met) {
  series_->outcomes.targets[Index(target)][met ? 1 : 0]->Increment();
}

void Metrics::Step(const StepSample& sample) {
  StepSeries& steps = series_->steps;
  const Phase phase =
      sample.prefill_tokens > 0 ? Phase::kPrefill : Phase::kDecode;
  steps.seconds[Index(phase)]->Observe(series_->Seconds(sample.duration));
  const double busy[] = {sample.times.embed, sample.times.selection,
                         sample.times.attention, sample.times.mlp,
                         sample.times.sampling};
  for (size_t i = 0; i < steps.busy.size(); ++i) {
    steps.busy[i]->Increment(series_->Seconds(busy[i]));
  }
  const double selection = series_->Seconds(sample.times.selection);
  if (selection > 0) steps.selection[Index(phase)]->Observe(selection);
  steps.prompt_tokens[0]->Increment(series_->Count(sample.prefill_tokens));
  steps.generation_tokens->Increment(series_->Count(sample.generated_tokens));
  steps.preemptions->Increment(series_->Count(sample.preemptions));
  series_->work.wasted_tokens[1]->Increment(
      series_->Count(sample.recomputed_tokens));

  const int requests[kPhases] = {sample.prefill_requests,
                                 sample.decode_requests};
  const int tokens[kPhases] = {sample.prefill_tokens, sample.decode_tokens};
  const AttentionBlocks blocks[kPhases] = {sample.prefill_blocks,
                                           sample.decode_blocks};
  for (int p = 0; p < kPhases; ++p) {
    const double slices = series_->Count(requests[p]);
    if (slices == 0) continue;
    steps.batch_requests[p]->Observe(slices);
    steps.batch_tokens[p]->Observe(series_->Count(tokens[p]));
    for (int kind = 0; kind < kPatternKinds; ++kind) {
      steps.heads[p][kind]->Increment(series_->Count(sample.heads[p][kind]));
    }
    const double computed = series_->Count(blocks[p].computed);
    const double allowed = series_->Count(blocks[p].allowed);
    steps.blocks[p][0]->Increment(computed);
    steps.blocks[p][1]->Increment(std::max(allowed - computed, 0.0));
  }

  std::vector<double> gaps;
  for (const absl::Duration gap : sample.token_gaps) {
    gaps.push_back(series_->Seconds(gap));
  }
  ObserveAll(gaps, TokenGapSecondsBuckets(), *steps.token_gap);
}

void Metrics::Recall(int pattern, absl::Span<const float> shares) {
  std::vector<double> values;
  for (const float share : shares) {
    // Also false for NaN.
    const bool is_share = share >= 0 && share <= 1;
    if (!is_share) series_->state.clamped->Increment();
    values.push_back(is_share ? share : (share > 1 ? 1 : 0));
  }
  if (values.empty()) return;
  const std::string name(PatternName(EveryPattern()[pattern]));
  ObserveAll(values, RecallBuckets(),
             *series_->work.recall.One({{"pattern", name}}));
}

void Metrics::SetWaiting(int requests) {
  const double value = series_->Count(requests);
  series_->state.waiting->Set(value);
  series_->state.model_waiting->Set(value);
}

void Metrics::SetRunning(int requests) {
  const double value = series_->Count(requests);
  series_->state.running->Set(value);
  series_->state.model_running->Set(value);
}

void Metrics::SetPages(int used, int free, int cached) {
  StateSeries& state = series_->state;
  const double used_pages = series_->Count(used);
  const double free_pages = series_->Count(free);
  const double cached_pages = series_->Count(cached);
  state.pages[0]->Set(free_pages);
  state.pages[1]->Set(used_pages);
  state.pages[2]->Set(cached_pages);
  {
    MutexLock lock(series_->mu);
    series_->page_counts = {free_pages, used_pages, cached_pages};
    series_->SplitKvMemory();
  }
  const double usage =
      used_pages / std::max(used_pages + free_pages + cached_pages, 1.0);
  state.kv_usage->Set(usage);
  state.model_kv_usage->Set(usage);
}

void Metrics::PrefixCache(const PrefixCacheSample& sample) {
  StepSeries& steps = series_->steps;
  const double hit = series_->Count(sample.hit_tokens);
  steps.query_tokens->Increment(series_->Count(sample.query_tokens));
  steps.hit_tokens->Increment(hit);
  steps.prompt_tokens[1]->Increment(hit);
  steps.evicted_pages->Increment(series_->Count(sample.evicted_pages));
}

void Metrics::SetStepCosts(const std::array<double, 5>& seconds) {
  for (size_t i = 0; i < seconds.size(); ++i) {
    series_->steps.costs[i]->Set(series_->Seconds(seconds[i]));
  }
}

void Metrics::SetMemory(const MemorySample& sample) {
  Each<Gauge, 7>& memory = series_->state.memory;
  memory[0]->Set(series_->Count(sample.mapped_file));
  memory[1]->Set(series_->Count(sample.weights));
  memory[2]->Set(series_->Count(sample.summaries));
  memory[3]->Set(series_->Count(sample.activations));
  MutexLock lock(series_->mu);
  series_->kv_bytes = series_->Count(sample.kv);
  series_->SplitKvMemory();
}

void Metrics::SetLoadTime(LoadStage stage, absl::Duration duration) {
  series_->state.load[Index(stage)]->Set(series_->Seconds(duration));
}

void Metrics::AuthFailed(AuthFailure reason) {
  series_->security.failures[static_cast<int>(reason)]->Increment();
}

void Metrics::SetCertificateExpiry(absl::Time expiry) {
  series_->security.certificate_expiry->Set(
      static_cast<double>(absl::ToUnixSeconds(expiry)));
}

void Metrics::CertificateReloaded(bool ok) {
  series_->security.certificate_reloads[ok ? 0 : 1]->Increment();
}

void Metrics::SecurityFileReloaded(SecurityFile file, bool ok) {
  series_->security.file_reloads[static_cast<int>(file)][ok ? 0 : 1]
      ->Increment();
}

void Metrics::SetReady(bool ready) { series_->state.ready->Set(ready ? 1 : 0); }

void Metrics::SetDraining(bool draining) {
  series_->state.draining->Set(draining ? 1 : 0);
}

}  // namespace sparseserve
