#pragma once

// What stands behind Metrics: every series, made once at the start. Private to
// this folder. The registry owns what the pointers point to; arrays are indexed
// by the enums of metrics.h.

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "engine/base/mutex.h"
#include "engine/pattern/every_pattern.h"
#include "prometheus/registry.h"
#include "server/metrics/family_builder.h"
#include "server/metrics/label_values.h"
#include "server/metrics/metrics.h"
#include "server/metrics/plan_series.h"
#include "server/metrics/process_collector.h"

namespace sparseserve {

using Counter = prometheus::Counter;
using Gauge = prometheus::Gauge;
using Histogram = prometheus::Histogram;
template <typename T, size_t N>
using Each = std::array<T*, N>;
template <typename T, size_t N, size_t M>
using Grid = std::array<std::array<T*, M>, N>;

// Per gRPC method.
class CallSeries {
 public:
  struct Method {
    Counter* started;
    std::string name;
    // Made at the first message that waited: few methods write streams.
    std::atomic<Histogram*> blocked = nullptr;
    // By status; made at the first call that ends with it.
    std::array<std::atomic<Histogram*>, kGrpcStatuses> durations{};
  };
  CallSeries(const SeriesFactory& make, const std::vector<std::string>& names);

  Method& Find(absl::string_view name) const;  // or "other"
  Histogram& Duration(Method& method, int status) const;
  Histogram& Blocked(Method& method) const;

 private:
  void AddMethod(const std::string& name);

  const FamilyBuilder<Counter> started_;
  const FamilyBuilder<Histogram> durations_, blocked_;
  std::vector<std::unique_ptr<Method>> methods_;  // back() is "other"
  absl::flat_hash_map<std::string, Method*> by_name_;
};

// How requests of the model end.
struct OutcomeSeries {
  explicit OutcomeSeries(const SeriesFactory& make);

  Grid<Counter, 5, 6> finished;
  Each<Counter, 8> rejected;
  Grid<Counter, 4, 4> cancelled;
  Grid<Counter, 3, 2> targets;
};

// Where their time goes.
struct TimeSeries {
  explicit TimeSeries(const SeriesFactory& make);

  Histogram* queue;
  Each<Histogram, 6> first_token;
  Histogram* per_output_token;
  Each<Histogram, 5> duration;
  Each<Histogram, 4> phase;
};

// How much they ask for.
struct WorkSeries {
  explicit WorkSeries(const SeriesFactory& make);

  Histogram *prompt_tokens, *generation_tokens;
  Each<Counter, 2> wasted_tokens;  // cancelled, preempted
  Each<Histogram, kPhases> density;
  Grid<Counter, kPhases, kFallbackReasons.size()> fallbacks;
  // By pattern; a series is made with the first sample, for no model has all
  // patterns.
  FamilyBuilder<Histogram> recall;
};

// Per step of the engine.
struct StepSeries {
  explicit StepSeries(const SeriesFactory& make);

  Histogram* token_gap;
  Each<Histogram, kPhases> seconds;
  Each<Histogram, kPhases> selection;
  Each<Counter, 5> busy;           // embed, selection, attention, mlp, sampling
  Each<Counter, 2> prompt_tokens;  // computed, prefix_cache
  Counter *generation_tokens, *preemptions;
  Counter *query_tokens, *hit_tokens, *evicted_pages;  // of the prefix cache
  Each<Histogram, kPhases> batch_requests, batch_tokens;
  Grid<Counter, kPhases, kPatternKinds> heads;
  Grid<Counter, kPhases, 2> blocks;  // computed, skipped
  Each<Gauge, 5> costs;
};

// What is true now.
struct StateSeries {
  // `device` holds the model's memory.
  StateSeries(const SeriesFactory& process, const SeriesFactory& model,
              const std::string& device);

  Gauge *running, *waiting, *model_running, *model_waiting;
  Gauge *kv_usage, *model_kv_usage;
  Each<Gauge, 3> pages;  // free, used, cached
  // mapped_file, weights, summaries, activations, and of KV pages as `pages`.
  Each<Gauge, 7> memory;
  Each<Gauge, 3> load;  // read, convert, warmup
  Gauge *ready, *draining, *buffered_bytes;
  Counter *dropped_log_lines, *clamped;
};

// Who may call.
struct SecuritySeries {
  explicit SecuritySeries(const SeriesFactory& process);

  Each<Counter, kAuthFailures> failures;
  Gauge* certificate_expiry;
  Each<Counter, 2> certificate_reloads;  // loaded, refused
  Grid<Counter, kSecurityFiles, 2> file_reloads;
};

struct Metrics::Series {
  explicit Series(const Options& options);

  // Observations must be finite and not negative, whatever callers measured:
  // these return the nearest possible value and count what they changed.
  double Seconds(absl::Duration duration);
  double Seconds(double seconds);
  double Nats(double nats);
  double Count(int64_t value);
  PlanSeries::Plan& Plan(int index);  // or the nearest one
  // Sets what pages of each state hold of `kv_bytes`.
  void SplitKvMemory() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  const std::shared_ptr<prometheus::Registry> registry;
  const std::shared_ptr<ProcessCollector> process;
  CallSeries calls;
  OutcomeSeries outcomes;
  TimeSeries times;
  WorkSeries work;
  StepSeries steps;
  StateSeries state;
  PlanSeries plans;
  SecuritySeries security;

  Mutex mu;
  int64_t buffered_bytes ABSL_GUARDED_BY(mu) = 0;
  double kv_bytes ABSL_GUARDED_BY(mu) = 0;
  // free, used, cached
  std::array<double, 3> page_counts ABSL_GUARDED_BY(mu) = {};
};

}  // namespace sparseserve
