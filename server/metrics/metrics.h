#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/pattern/every_pattern.h"
#include "engine/step.h"
#include "server/metrics/auth_failure.h"
#include "server/metrics/metrics_snapshot.h"
#include "server/metrics/plan_events.h"

namespace sparseserve {

enum class Operation {
  kGenerate,
  kStreamGenerate,
  kTokenize,
  kDetokenize,
  kExplainAttention,
};
enum class FinishOutcome {
  kStop,
  kLength,
  kStopSequence,
  kCancelled,
  kDeadline,
  kError,
};
enum class RejectReason {
  kQueueFull,
  kKvCapacity,
  kPromptTooLong,
  kInvalidArgument,
  kDeadlineUnmeetable,
  kDraining,
  kModelNotReady,
  kQuota,
};
enum class CancelStage { kQueue, kPrefill, kDecode, kWrite };
enum class CancelCause { kClient, kDeadline, kDrain, kSlowConsumer };
enum class RequestPhase { kTokenize, kPrefill, kDecode, kDetokenize };
enum class TargetKind { kTimeToFirstToken, kTimePerOutputToken, kTotal };
enum class LoadStage { kRead, kConvert, kWarmup };

// What one engine step did, for one flush of the metrics per step.
struct StepSample {
  absl::Duration duration;
  StepTimes times;
  int prefill_requests = 0, decode_requests = 0;
  int prefill_tokens = 0, decode_tokens = 0;
  int generated_tokens = 0;
  // Sequences that it stopped for want of pages, and tokens that such ones now
  // compute again.
  int preemptions = 0;
  int64_t recomputed_tokens = 0;
  // Attention over layers and heads, by phase.
  AttentionBlocks prefill_blocks, decode_blocks;
  // Runs of a KV head in a layer for a request, by phase and by pattern, as
  // PatternSpec::index() counts.
  std::array<std::array<int64_t, kPatternKinds>, kPhases> heads = {};
  // Time since each running sequence's previous token, one per decode token.
  absl::Span<const absl::Duration> token_gaps;
};

// The numbers of one finished or ended generation.
struct RequestSample {
  Operation operation = Operation::kStreamGenerate;
  FinishOutcome outcome = FinishOutcome::kStop;
  int prompt_tokens = 0;
  int output_tokens = 0;
  int wasted_tokens = 0;  // computed for cancelled work
  absl::Duration queue;
  absl::Duration prefill;                // zero if no token came
  absl::Duration decode;                 // zero with fewer than two tokens
  absl::Duration time_to_first_token;    // infinite if no token came
  absl::Duration time_per_output_token;  // infinite with fewer than two
  absl::Duration total;
  AttentionBlocks prefill_blocks, decode_blocks;
  // Counts once for each phase that ran.
  FallbackReason fallback = FallbackReason::kNone;
};

// What the prefix cache did since the last sample.
struct PrefixCacheSample {
  int64_t query_tokens = 0;  // of prompts that began
  int64_t hit_tokens = 0;    // of these, tokens that were found
  int64_t evicted_pages = 0;
};

// Bytes that the model holds on its device.
struct MemorySample {
  int64_t mapped_file = 0, weights = 0;
  int64_t kv = 0;         // keys and values, of pages in every state
  int64_t summaries = 0;  // what selecting keeps of each page, besides `kv`
  int64_t activations = 0;
};

// Every metric of the server (names, labels and buckets in
// server/metrics/README.md); the only class that knows prometheus-cpp. Created
// by main. Thread-safe; no method blocks for long, throws, or fails: impossible
// values are clamped and counted. Series exist from the start at 0.
class Metrics {
 public:
  struct Options {
    std::string model_name;
    std::string version, revision, grpc_version, simd, device;
    std::string dtype, architecture, attention_backend;
    int page_tokens = 0;
    int kv_pages = 0;
    // Full names, "sparseserve.v1.InferenceService/Generate"; calls of others
    // count as "other".
    std::vector<std::string> grpc_methods;
    // Index 0 is dense; of more than 33 the first 33.
    std::vector<std::string> plans = {"dense"};
  };
  explicit Metrics(const Options& options);
  ~Metrics();

  // Text exposition of everything, as a scrape sees it.
  std::string Serialize() const;
  // The same, to compute with.
  MetricsSnapshot Snapshot() const;

  // gRPC. `method` is one of Options::grpc_methods, with or without a leading
  // slash; `grpc_status` a code of 0 to 16.
  void CallStarted(const std::string& method);
  void CallFinished(const std::string& method, int grpc_status,
                    absl::Duration duration);
  void StreamBlocked(const std::string& method, absl::Duration duration);
  void AddBufferedBytes(int64_t delta);
  void LogLineDropped();

  // Requests.
  void Rejected(RejectReason reason);
  void Cancelled(CancelStage stage, CancelCause cause);
  void Finished(const RequestSample& sample);
  // A request that generates nothing: tokenizing, detokenizing.
  void Answered(Operation operation, FinishOutcome outcome,
                absl::Duration duration);
  // Tokenizing and detokenizing; prefill and decode come with Finished().
  void PhaseTime(RequestPhase phase, absl::Duration duration);
  void TargetOutcome(TargetKind target, bool met);
  // Sampled shares of heads that followed one pattern, as PatternSpec::index()
  // counts.
  void Recall(int pattern, absl::Span<const float> shares);

  // The serving loop.
  void Step(const StepSample& sample);
  void SetWaiting(int requests);
  void SetRunning(int requests);
  void SetPages(int used, int free, int cached = 0);
  void PrefixCache(const PrefixCacheSample& sample);
  // What the scheduler learned of steps, in seconds: each, each row of output
  // and of prompts, each KV block that these visit.
  void SetStepCosts(const std::array<double, 5>& seconds);

  // Plans: what requests ran with. An index that is not of Options::plans
  // counts as the nearest one.
  void PlanRan(Phase phase, int plan);
  void PlanTarget(const PlanTargetSample& sample);
  void PlanSwitched(Phase phase);
  // A predicted median and 95th percentile, and what it took. All finite.
  void Predicted(PredictedQuantity quantity, absl::Duration p50,
                 absl::Duration p95, absl::Duration actual);

  // The quality guard. All states of a plan are 0 before the first call.
  void SetGuardState(int plan, GuardState state);
  void Demoted(int plan, DemotionCause cause);
  void Promoted(int plan);
  void GuardSampled(int64_t rows);
  void SliceRedone(RedoCause cause);
  // `divergence` in nats a token; ignored if the run failed.
  void ShadowRun(int plan, ShadowOutcome outcome, double divergence);
  // Mean over the tokens of one request.
  void OutputEntropy(double nats);

  // Who may call.
  void AuthFailed(AuthFailure reason);
  void SetCertificateExpiry(absl::Time expiry);
  void CertificateReloaded(bool ok);
  void SecurityFileReloaded(SecurityFile file, bool ok);

  // main. Memory of KV pages is split by state with each SetPages().
  void SetLoadTime(LoadStage stage, absl::Duration duration);
  void SetMemory(const MemorySample& sample);
  void SetReady(bool ready);
  void SetDraining(bool draining);

 private:
  struct Series;
  std::unique_ptr<Series> series_;
};

}  // namespace sparseserve
