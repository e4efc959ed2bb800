#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/pattern/every_pattern.h"
#include "engine/step.h"
#include "server/metrics/auth_failure.h"

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
  int64_t mapped_file = 0, weights = 0, kv = 0, activations = 0;
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
  };
  explicit Metrics(const Options& options);
  ~Metrics();

  // Serves GET /metrics on "host:port"; port 0 picks one. Call once, before
  // other threads use this. UNAVAILABLE if the address cannot be bound.
  absl::Status Listen(const std::string& address);
  int port() const;  // of Listen(); 0 before

  // Text exposition of everything, as a scrape sees it.
  std::string Serialize() const;

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

  // Who may call.
  void AuthFailed(AuthFailure reason);
  void SetCertificateExpiry(absl::Time expiry);
  void CertificateReloaded(bool ok);
  void SecurityFileReloaded(SecurityFile file, bool ok);

  // main.
  void SetMemory(const MemorySample& sample);
  void SetReady(bool ready);
  void SetDraining(bool draining);

 private:
  struct Series;
  std::unique_ptr<Series> series_;
};

}  // namespace sparseserve
