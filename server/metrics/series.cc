#include "server/metrics/series.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/strip.h"
#include "server/metrics/buckets.h"
#include "server/metrics/label_values.h"

namespace sparseserve {
namespace {

// No request lasts longer than its deadline, at most a day.
constexpr double kMaxSeconds = 24 * 60 * 60;
// More than any distribution over a vocabulary comes to.
constexpr double kMaxNats = 100;

SeriesFactory ModelFactory(prometheus::Registry& registry,
                           const Metrics::Options& options) {
  return SeriesFactory(registry,
                       {{"model_name", LabelValue(options.model_name)}});
}

// What does not change while the server runs.
void AddConstants(const SeriesFactory& process, const SeriesFactory& model,
                  const Metrics::Options& options) {
  process.Gauge("memory_limit_bytes", "Most memory that the process may use.")
      .One({{"device", "cpu"}})
      ->Set(static_cast<double>(MemoryLimitBytes()));
  process.Gauge("build_info", "The running build; always 1.")
      .One({{"version", LabelValue(options.version)},
            {"revision", LabelValue(options.revision)},
            {"grpc_version", LabelValue(options.grpc_version)},
            {"simd", LabelValue(options.simd)},
            {"accelerator", LabelValue(options.device)}})
      ->Set(1);
  model.Gauge("model_info", "The loaded model; always 1.")
      .One({{"dtype", LabelValue(options.dtype)},
            {"architecture", LabelValue(options.architecture)},
            {"attention_backend", LabelValue(options.attention_backend)}})
      ->Set(1);
  process.Gauge("cache_config_info", "Size of the KV cache; always 1.")
      .One({{"block_size", std::to_string(options.page_tokens)},
            {"num_gpu_blocks", std::to_string(options.kv_pages)}})
      ->Set(1);
}

// What the slot holds, once it was made.
template <typename Make>
Histogram& MadeOnce(std::atomic<Histogram*>& slot, const Make& make) {
  Histogram* histogram = slot.load(std::memory_order_acquire);
  if (histogram == nullptr) {
    // Two threads may get here at once: the family gives both the same series.
    histogram = make();
    slot.store(histogram, std::memory_order_release);
  }
  return *histogram;
}

}  // namespace

CallSeries::CallSeries(const SeriesFactory& make,
                       const std::vector<std::string>& names)
    : started_(make.Counter("grpc_server_calls_started_total",
                            "Calls that the server began to handle.")),
      durations_(make.Histogram(
          "grpc_server_call_duration_seconds",
          "Time from a call's arrival to its status. The count is the number "
          "of calls that ended.",
          CallSecondsBuckets())),
      blocked_(make.Histogram(
          "stream_write_blocked_seconds",
          "Time that one message of a stream waited for the client to read.",
          PhaseSecondsBuckets())) {
  for (const std::string& name : names) AddMethod(name);
  AddMethod("other");
  // Named through the fallback only: a client may call a method "other".
  by_name_.erase("other");
}

void CallSeries::AddMethod(const std::string& name) {
  const std::string label = LabelValue(name);
  auto method = std::make_unique<Method>();
  method->started = started_.One({{"grpc_method", label}});
  method->name = label;
  by_name_[name] = method.get();
  methods_.push_back(std::move(method));
}

CallSeries::Method& CallSeries::Find(absl::string_view name) const {
  const auto found = by_name_.find(absl::StripPrefix(name, "/"));
  return found == by_name_.end() ? *methods_.back() : *found->second;
}

Histogram& CallSeries::Duration(Method& method, int status) const {
  return MadeOnce(method.durations[status], [&] {
    return durations_.One(
        {{"grpc_method", method.name}, {"grpc_status", kStatusNames[status]}});
  });
}

Histogram& CallSeries::Blocked(Method& method) const {
  return MadeOnce(method.blocked, [&] {
    return blocked_.One({{"grpc_method", method.name}});
  });
}

OutcomeSeries::OutcomeSeries(const SeriesFactory& make)
    : finished(
          make.Counter("requests_finished_total",
                       "Accepted requests that ended, by how.")
              .Grid("operation", kOperations, "finish_reason", kFinishReasons)),
      rejected(make.Counter("requests_rejected_total",
                            "Requests that were refused, by why.")
                   .Each("reason", kRejectReasons)),
      cancelled(make.Counter("requests_cancelled_total",
                             "Accepted requests that were cancelled, by the "
                             "stage they were in and by cause.")
                    .Grid("stage", kCancelStages, "cause", kCancelCauses)),
      targets(make.Counter("latency_targets_total",
                           "Latency targets of requests that ended, by "
                           "whether they were met.")
                  .Grid("target", kTargets, "outcome", kTargetOutcomes)) {}

TimeSeries::TimeSeries(const SeriesFactory& make)
    : queue(make.Histogram("request_queue_time_seconds",
                           "Time from arrival to the start of the first step.",
                           QueueSecondsBuckets())
                .One()),
      first_token(make.Histogram("time_to_first_token_seconds",
                                 "Time from arrival to the first token, by "
                                 "length of the prompt in tokens.",
                                 FirstTokenSecondsBuckets())
                      .Each("prompt_class", kPromptClasses)),
      per_output_token(
          make.Histogram("time_per_output_token_seconds",
                         "Mean time between output tokens of one request.",
                         TokenGapSecondsBuckets())
              .One()),
      duration(make.Histogram("request_duration_seconds",
                              "Time from arrival to the end of a request.",
                              DurationSecondsBuckets())
                   .Each("operation", kOperations)),
      phase(make.Histogram("request_phase_seconds",
                           "Time that a request spent in a phase.",
                           PhaseSecondsBuckets())
                .Each("phase", kRequestPhases)) {}

WorkSeries::WorkSeries(const SeriesFactory& make)
    : prompt_tokens(make.Histogram("request_prompt_tokens",
                                   "Tokens in the prompt of one request.",
                                   PromptTokensBuckets())
                        .One()),
      generation_tokens(make.Histogram("request_generation_tokens",
                                       "Tokens generated for one request.",
                                       GenerationTokensBuckets())
                            .One()),
      wasted_tokens(make.Counter("wasted_tokens_total",
                                 "Tokens computed for work that was given up.")
                        .Each("cause", kWasteCauses)),
      density(make.Histogram("attention_density_ratio",
                             "KV blocks visited over KV blocks that the mask "
                             "allows, of one request. Corrected patterns can "
                             "exceed 1.",
                             DensityBuckets())
                  .Each("phase", kPhaseNames)),
      fallbacks(make.Counter("sparse_fallbacks_total",
                             "Requests of which dense attention ran where a "
                             "sparse pattern was chosen or asked for.")
                    .Grid("phase", kPhaseNames, "reason", kFallbackReasons)),
      recall(make.Histogram(
          "attention_recall_estimate_ratio",
          "Share of dense attention's weight that one sampled row kept in one "
          "layer and head, by pattern.",
          RecallBuckets())) {}

StepSeries::StepSeries(const SeriesFactory& make)
    : token_gap(make.Histogram("inter_token_latency_seconds",
                               "Time between two tokens of one stream.",
                               TokenGapSecondsBuckets())
                    .One()),
      seconds(make.Histogram("engine_step_seconds",
                             "Time of one engine step. A step with any prompt "
                             "token counts as prefill.",
                             PhaseSecondsBuckets())
                  .Each("phase", kPhaseNames)),
      selection(make.Histogram("pattern_selection_seconds",
                               "Time that one step spent on choosing blocks, "
                               "of steps that choose. A step with any prompt "
                               "token counts as prefill.",
                               SelectionSecondsBuckets())
                    .Each("phase", kPhaseNames)),
      busy(make.Counter("stage_busy_seconds_total",
                        "Time that engine steps spent in a stage.")
               .Each("stage", kBusyStages)),
      prompt_tokens(make.Counter("prompt_tokens_total",
                                 "Prompt tokens processed, by where their keys "
                                 "and values came from.")
                        .Each("source", kPromptSources)),
      generation_tokens(
          make.Counter("generation_tokens_total", "Tokens generated.").One()),
      preemptions(make.Counter("preemptions_total",
                               "Sequences whose pages were taken away.")
                      .One({{"mode", "recompute"}})),
      query_tokens(make.Counter("prefix_cache_query_tokens_total",
                                "Tokens of prompts that were looked for in the "
                                "prefix cache.")
                       .One()),
      hit_tokens(make.Counter("prefix_cache_hit_tokens_total",
                              "Of these, tokens that were found there.")
                     .One()),
      evicted_pages(make.Counter("kv_cache_evicted_pages_total",
                                 "Cached pages that gave way to others.")
                        .One({{"tier", "device"}})),
      batch_requests(make.Histogram("batch_requests",
                                    "Requests that one step worked on.",
                                    BatchRequestsBuckets())
                         .Each("phase", kPhaseNames)),
      batch_tokens(make.Histogram("batch_tokens", "Tokens that one step ran.",
                                  BatchTokensBuckets())
                       .Each("phase", kPhaseNames)),
      blocks(make.Counter("attention_blocks_total",
                          "KV blocks that attention visited, those of "
                          "corrections too, and those that the mask allows "
                          "beyond them.")
                 .Grid("phase", kPhaseNames, "outcome", kBlockOutcomes)),
      costs(make.Gauge("step_cost_seconds",
                       "What the scheduler expects of a step's time: a "
                       "constant, and for each row and visited KV block of "
                       "output and of prompts.")
                .Each("term", kStepCostTerms)) {
  const auto by_pattern = make.Counter(
      "attention_heads_total",
      "Runs of one KV head in one layer for one request, by pattern.");
  const std::vector<PatternSpec> patterns = EveryPattern();
  for (int p = 0; p < kPhases; ++p) {
    for (int kind = 0; kind < kPatternKinds; ++kind) {
      heads[p][kind] = by_pattern.One(
          {{"phase", kPhaseNames[p]},
           {"pattern", std::string(PatternName(patterns[kind]))}});
    }
  }
}

StateSeries::StateSeries(const SeriesFactory& process,
                         const SeriesFactory& model, const std::string& device)
    : running(
          process.Gauge("requests_running", "Requests in the batch.").One()),
      waiting(
          process.Gauge("requests_waiting", "Requests that wait for a place.")
              .One()),
      model_running(model
                        .Gauge("model_requests_running",
                               "Requests of the model in the batch.")
                        .One()),
      model_waiting(model
                        .Gauge("model_requests_waiting",
                               "Requests of the model that wait.")
                        .One()),
      kv_usage(process
                   .Gauge("kv_cache_usage_ratio",
                          "Share of KV pages in use, 0 to 1.")
                   .One()),
      model_kv_usage(model
                         .Gauge("model_kv_cache_usage_ratio",
                                "Share of the model's KV pages in use, 0 to 1.")
                         .One()),
      pages(model.Gauge("kv_cache_pages", "KV pages, by state.")
                .Each("state", kPageStates, {{"tier", "device"}})),
      memory(process.Gauge("memory_bytes", "Memory held, by what for.")
                 .Each("kind", kMemoryKinds, {{"device", LabelValue(device)}})),
      load(model
               .Gauge("model_load_duration_seconds",
                      "Time that loading the model took, by stage.")
               .Each("stage", kLoadStages)),
      ready(
          model.Gauge("model_ready", "1 if the model accepts requests.").One()),
      draining(process
                   .Gauge("server_draining",
                          "1 while the server finishes before it stops.")
                   .One()),
      buffered_bytes(process
                         .Gauge("stream_buffered_bytes",
                                "Output that waits for clients to read it.")
                         .One()),
      dropped_log_lines(process
                            .Counter("log_lines_dropped_total",
                                     "Lines of the log that nobody took.")
                            .One()),
      clamped(process
                  .Counter("metrics_clamped_total",
                           "Impossible measurements that were replaced by "
                           "the nearest possible value.")
                  .One()) {}

SecuritySeries::SecuritySeries(const SeriesFactory& process)
    : failures(process
                   .Counter("auth_failures_total",
                            "Calls refused for who made them.")
                   .Each("reason", kAuthFailureNames)),
      certificate_expiry(
          process
              .Gauge("tls_certificate_expiry_timestamp_seconds",
                     "When the server's certificate ends; 0 without TLS.")
              .One()),
      certificate_reloads(
          process
              .Counter("tls_certificate_reloads_total",
                       "Replacements of certificate, key or client CA.")
              .Each("outcome", kReloadOutcomes)),
      file_reloads(
          process
              .Counter("security_file_reloads_total",
                       "Replacements of files that say who may call.")
              .Grid("file", kSecurityFileNames, "outcome", kReloadOutcomes)) {}

Metrics::Series::Series(const Options& options)
    : registry(std::make_shared<prometheus::Registry>()),
      process(std::make_shared<ProcessCollector>()),
      calls(SeriesFactory(*registry, {}), options.grpc_methods),
      outcomes(ModelFactory(*registry, options)),
      times(ModelFactory(*registry, options)),
      work(ModelFactory(*registry, options)),
      steps(ModelFactory(*registry, options)),
      state(SeriesFactory(*registry, {}), ModelFactory(*registry, options),
            options.device),
      plans(ModelFactory(*registry, options), options.plans),
      security(SeriesFactory(*registry, {})) {
  AddConstants(SeriesFactory(*registry, {}), ModelFactory(*registry, options),
               options);
}

double Metrics::Series::Seconds(absl::Duration duration) {
  return Seconds(absl::ToDoubleSeconds(duration));
}

double Metrics::Series::Seconds(double seconds) {
  // Also false for NaN.
  if (seconds >= 0 && seconds <= kMaxSeconds) return seconds;
  state.clamped->Increment();
  return seconds > kMaxSeconds ? kMaxSeconds : 0;
}

double Metrics::Series::Nats(double nats) {
  // Also false for NaN.
  if (nats >= 0 && nats <= kMaxNats) return nats;
  state.clamped->Increment();
  return nats > kMaxNats ? kMaxNats : 0;
}

void Metrics::Series::SplitKvMemory() {
  const double pages = page_counts[0] + page_counts[1] + page_counts[2];
  for (size_t i = 0; i < page_counts.size(); ++i) {
    // No page is in use before the loop has said so.
    const double share =
        pages > 0 ? page_counts[i] / pages : (i == 0 ? 1.0 : 0.0);
    state.memory[kMemoryKinds.size() - page_counts.size() + i]->Set(kv_bytes *
                                                                    share);
  }
}

PlanSeries::Plan& Metrics::Series::Plan(int index) {
  const int last = static_cast<int>(plans.plans.size()) - 1;
  if (index < 0 || index > last) state.clamped->Increment();
  return plans.plans[std::clamp(index, 0, last)];
}

double Metrics::Series::Count(int64_t value) {
  if (value < 0) state.clamped->Increment();
  return static_cast<double>(std::max<int64_t>(value, 0));
}

}  // namespace sparseserve
