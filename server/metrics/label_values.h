#pragma once

// What labels may say, in the order of the enums of metrics.h.

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/step.h"
#include "server/metrics/auth_failure.h"
#include "server/metrics/family_builder.h"

namespace sparseserve {

// Some label values come from files of models and profiles: whatever these say,
// the exposition stays short, printable text.
inline std::string LabelValue(absl::string_view text) {
  constexpr size_t kMaxBytes = 128;
  std::string value(text.substr(0, kMaxBytes));
  for (char& c : value) {
    if (c < ' ' || c > '~') c = '?';
  }
  return value;
}

// Where the value of an enum stands among its labels.
template <typename Enum>
constexpr size_t Index(Enum value) {
  return static_cast<size_t>(value);
}

inline constexpr int kGrpcStatuses = 17;

inline constexpr LabelValues<5> kOperations = {"generate", "stream_generate",
                                               "tokenize", "detokenize",
                                               "explain_attention"};
inline constexpr LabelValues<6> kFinishReasons = {
    "stop", "length", "stop_sequence", "cancelled", "deadline", "error"};
inline constexpr LabelValues<8> kRejectReasons = {
    "queue_full",          "kv_capacity", "prompt_too_long", "invalid_argument",
    "deadline_unmeetable", "draining",    "model_not_ready", "quota"};
inline constexpr LabelValues<4> kCancelStages = {"queue", "prefill", "decode",
                                                 "write"};
inline constexpr LabelValues<4> kCancelCauses = {"client", "deadline", "drain",
                                                 "slow_consumer"};
inline constexpr LabelValues<2> kWasteCauses = {"cancelled", "preempted"};
inline constexpr LabelValues<4> kRequestPhases = {"tokenize", "prefill",
                                                  "decode", "detokenize"};
inline constexpr LabelValues<3> kTargets = {"time_to_first_token",
                                            "time_per_output_token", "total"};
inline constexpr LabelValues<2> kTargetOutcomes = {"missed", "met"};
inline constexpr LabelValues<6> kPromptClasses = {
    "le_1k", "le_4k", "le_16k", "le_64k", "le_256k", "gt_256k"};
inline size_t PromptClass(int tokens) {
  constexpr int kBounds[] = {1024, 4096, 16384, 65536, 262144};
  return std::lower_bound(std::begin(kBounds), std::end(kBounds), tokens) -
         std::begin(kBounds);
}
inline constexpr LabelValues<kPhases> kPhaseNames = {"prefill", "decode"};
inline constexpr LabelValues<5> kStepCostTerms = {
    "constant", "decode_row", "prompt_row", "decode_block", "prompt_block"};
inline constexpr LabelValues<5> kBusyStages = {"embed", "selection",
                                               "attention", "mlp", "sampling"};
// Of FallbackReason, without kNone.
inline constexpr LabelValues<9> kFallbackReasons = {
    "not_calibrated",    "short_sequence",
    "low_recall",        "unsupported_mask",
    "unsupported_shape", "kernel_unavailable",
    "numeric_guard",     "policy",
    "request_override"};
inline constexpr LabelValues<2> kBlockOutcomes = {"computed", "skipped"};
inline constexpr LabelValues<3> kPageStates = {"free", "used", "cached"};
inline constexpr LabelValues<2> kPromptSources = {"computed", "prefix_cache"};
inline constexpr LabelValues<7> kMemoryKinds = {
    "mapped_file", "weights", "summaries", "activations",
    "kv_free",     "kv_used", "kv_cached"};
inline constexpr LabelValues<3> kLoadStages = {"read", "convert", "warmup"};
inline constexpr LabelValues<2> kSigns = {"early", "late"};
inline constexpr LabelValues<2> kPredictedQuantities = {
    "time_to_first_token", "time_per_output_token"};
inline constexpr LabelValues<3> kPredictionOutcomes = {"within_p50",
                                                       "within_p95", "beyond"};
inline constexpr LabelValues<3> kGuardStates = {"certified", "unproven",
                                                "demoted"};
inline constexpr LabelValues<3> kDemotionCauses = {"recall", "divergence",
                                                   "numeric"};
inline constexpr LabelValues<2> kRedoCauses = {"recall", "numeric"};
inline constexpr LabelValues<3> kShadowOutcomes = {"within", "above", "failed"};
inline constexpr LabelValues<kAuthFailures> kAuthFailureNames = {
    "no_credential",       "malformed_token", "unknown_token",
    "bad_signature",       "wrong_claims",    "expired_token",
    "token_not_yet_valid", "unknown_caller",  "method_not_allowed",
    "model_not_allowed"};
inline constexpr LabelValues<kSecurityFiles> kSecurityFileNames = {
    "access_policy", "tokens", "jwt_keys"};
inline constexpr LabelValues<2> kReloadOutcomes = {"loaded", "refused"};
inline constexpr LabelValues<kGrpcStatuses> kStatusNames = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED"};

}  // namespace sparseserve
