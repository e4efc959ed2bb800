#include "server/rpc/response_conversion.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <variant>

#include "google/protobuf/duration.pb.h"
#include "server/rpc/attention_conversion.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/request_limits.h"
#include "server/rpc/utf8_text.h"

namespace sparseserve {
namespace {

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  absl::Duration rest;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  proto.set_nanos(static_cast<int>(absl::ToInt64Nanoseconds(rest)));
  return proto;
}

void SetEntry(const TokenLogprob& from, const Tokenizer& tokenizer,
              v1::TokenLogprobs::Entry& to) {
  to.set_token_id(from.token);
  to.set_text(ToUtf8(tokenizer.TokenBytes(from.token)));
  to.set_logprob(from.logprob);
}

void SetLogprobs(const OutputPiece::Logprobs& from, const Tokenizer& tokenizer,
                 v1::TokenLogprobs& to) {
  SetEntry(from.chosen, tokenizer, *to.mutable_chosen());
  for (const TokenLogprob& alternative : from.alternatives) {
    SetEntry(alternative, tokenizer, *to.add_alternatives());
  }
}

// OutputDelta and GenerateResponse name these fields alike.
template <typename Message>
void SetOutput(const OutputPiece& piece, const Tokenizer& tokenizer,
               Message& message) {
  message.set_text(piece.text);
  message.mutable_token_ids()->Add(piece.token_ids.begin(),
                                   piece.token_ids.end());
  for (const OutputPiece::Logprobs& logprobs : piece.logprobs) {
    SetLogprobs(logprobs, tokenizer, *message.add_logprobs());
  }
}

// Different parameters do not make another pattern.
void AddPatterns(const AttentionChoice& choice, v1::AttentionPlan& plan) {
  const auto add = [&plan](const PatternSpec& pattern) {
    const std::string name(PatternName(pattern));
    const auto& known = plan.patterns();
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      plan.add_patterns(name);
    }
  };
  if (choice.map == nullptr) return add(choice.pattern);
  for (const PatternSpec& pattern : choice.map->patterns()) add(pattern);
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kStopSequence:
      return v1::FINISH_REASON_STOP_SEQUENCE;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void SetTimings(const FinishReport& report, v1::Timings& timings) {
  *timings.mutable_queue() = ToProto(report.queue);
  *timings.mutable_prefill() = ToProto(report.prefill);
  *timings.mutable_time_to_first_token() = ToProto(report.time_to_first_token);
  if (report.time_per_output_token.has_value()) {
    *timings.mutable_time_per_output_token() =
        ToProto(*report.time_per_output_token);
  }
  *timings.mutable_total() = ToProto(report.total);
}

void SetPatterns(const FinishReport& report, v1::AttentionReport& attention) {
  const int all = std::accumulate(report.heads.begin(), report.heads.end(), 0);
  for (const PatternSpec& pattern : EveryPattern()) {
    const int heads = report.heads[pattern.index()];
    if (heads == 0) continue;
    v1::PatternShare& share = *attention.add_patterns();
    share.set_pattern(std::string(PatternName(pattern)));
    share.set_share(static_cast<double>(heads) / all);
    if (std::holds_alternative<DensePattern>(pattern) && heads == all) {
      attention.set_recall_estimate(1);
      attention.set_recall_p5(1);
    }
  }
  std::stable_sort(attention.mutable_patterns()->begin(),
                   attention.mutable_patterns()->end(),
                   [](const v1::PatternShare& a, const v1::PatternShare& b) {
                     return a.share() > b.share();
                   });
}

void SetAttention(const FinishReport& report, const LatencyTarget& target,
                  v1::AttentionReport& attention) {
  attention.set_plan(report.plan);
  SetPatterns(report, attention);
  if (report.recall.has_value()) {
    attention.set_recall_estimate(report.recall->mean);
    attention.set_recall_p5(report.recall->p5);
    attention.set_recall_rows(report.recall->rows);
  }
  attention.set_prefill_density(Density(report.prefill_blocks));
  if (report.decode_blocks.allowed > 0) {
    attention.set_decode_density(Density(report.decode_blocks));
  }
  attention.set_fallback_reason(FallbackName(report.fallback));
  *attention.mutable_actual_time_to_first_token() =
      ToProto(report.time_to_first_token);
  if (target.time_to_first_token != absl::InfiniteDuration()) {
    *attention.mutable_slack() =
        ToProto(target.time_to_first_token - report.time_to_first_token);
  }
  attention.set_reproducible(report.reproducible);
}

}  // namespace

TargetResult Compare(const FinishReport& report, const LatencyTarget& target) {
  TargetResult result;
  const absl::Duration none = absl::InfiniteDuration();
  if (target.time_to_first_token != none) {
    result.time_to_first_token_met =
        report.time_to_first_token <= target.time_to_first_token;
  }
  // A single token has no time between tokens: nothing was met or missed, and
  // the loop counts neither.
  if (target.time_per_output_token != none &&
      report.time_per_output_token.has_value()) {
    result.time_per_output_token_met =
        *report.time_per_output_token <= target.time_per_output_token;
  }
  if (target.total != none) result.total_met = report.total <= target.total;
  return result;
}

v1::OutputDelta ToOutputDelta(const OutputPiece& piece,
                              const Tokenizer& tokenizer) {
  v1::OutputDelta delta;
  SetOutput(piece, tokenizer, delta);
  return delta;
}

v1::GenerationReport ToReport(const FinishReport& report,
                              const LatencyTarget& target,
                              const ServedModel& model,
                              const std::string& request_id) {
  v1::GenerationReport proto;
  proto.set_request_id(request_id);
  proto.set_model(model.name);
  proto.set_finish_reason(ToProto(report.reason));
  proto.set_matched_stop_string(report.matched_stop_string);
  proto.mutable_usage()->set_prompt_tokens(report.prompt_tokens);
  proto.mutable_usage()->set_cached_prompt_tokens(report.cached_prompt_tokens);
  proto.mutable_usage()->set_output_tokens(report.output_tokens);
  SetTimings(report, *proto.mutable_timings());
  const TargetResult result = Compare(report, target);
  const auto set_outcome = [&proto](const std::optional<bool>& met,
                                    auto setter) {
    if (met.has_value()) (proto.mutable_target_outcome()->*setter)(*met);
  };
  set_outcome(result.time_to_first_token_met,
              &v1::TargetOutcome::set_time_to_first_token_met);
  set_outcome(result.time_per_output_token_met,
              &v1::TargetOutcome::set_time_per_output_token_met);
  set_outcome(result.total_met, &v1::TargetOutcome::set_total_met);
  SetAttention(report, target, *proto.mutable_attention());
  proto.set_seed(static_cast<int64_t>(report.seed));
  return proto;
}

v1::GenerateResponse ToGenerateResponse(const OutputPiece& output,
                                        v1::GenerationReport report,
                                        const Tokenizer& tokenizer) {
  v1::GenerateResponse response;
  SetOutput(output, tokenizer, response);
  *response.mutable_report() = std::move(report);
  return response;
}

v1::TokenizeResponse ToTokenizeResponse(const std::vector<TokenId>& tokens,
                                        const Tokenizer& tokenizer) {
  v1::TokenizeResponse response;
  response.mutable_token_ids()->Add(tokens.begin(), tokens.end());
  response.mutable_pieces()->Reserve(static_cast<int>(tokens.size()));
  for (const TokenId token : tokens) {
    response.add_pieces(ToUtf8(tokenizer.TokenBytes(token)));
  }
  return response;
}

v1::Model ToModel(const ServedModel& model) {
  v1::Model proto;
  proto.set_name(model.name);
  proto.set_display_name(ToUtf8(model.info.name));
  proto.set_architecture(ToUtf8(model.info.architecture));
  proto.set_weight_dtype(model.info.weight_dtype);
  proto.set_compute_dtype(model.compute_dtype);
  proto.set_parameters(model.info.parameters);
  proto.set_context_tokens(model.info.context_tokens);
  proto.set_vocabulary_size(model.info.vocab_size);
  proto.set_layers(model.info.layers);
  proto.set_heads(model.info.heads);
  proto.set_kv_heads(model.info.kv_heads);
  proto.set_head_dimension(model.info.head_dim);
  proto.set_page_tokens(kPageTokens);
  proto.set_chat_template(model.info.chat_template);
  for (const NamedPlan& plan : model.plans) {
    v1::AttentionPlan& available = *proto.add_available_plans();
    available.set_name(plan.name);
    AddPatterns(plan.choice, available);
    // No other was measured.
    if (plan.name == kDensePlan) available.set_divergence_bound(0);
  }
  for (const PatternSpec& pattern : SupportedPatterns(model.info)) {
    *proto.add_supported_patterns() = ToSupportedPattern(pattern);
  }
  v1::ModelLimits& limits = *proto.mutable_limits();
  limits.set_max_prompt_tokens(model.max_prompt_tokens);
  limits.set_max_output_tokens(model.max_request_tokens - 1);
  limits.set_default_max_output_tokens(model.default_max_output_tokens);
  limits.set_max_stop_strings(kMaxStopStrings);
  limits.set_max_logprobs(kMaxLogprobs);
  limits.set_max_tokenized_tokens(MaxTokenizedTokens(model));
  limits.set_max_explained_tokens(model.max_explained_tokens);
  return proto;
}

double Density(const AttentionBlocks& blocks) {
  if (blocks.allowed == 0) return 1.0;
  return static_cast<double>(blocks.computed) / blocks.allowed;
}

const char* FallbackName(FallbackReason reason) {
  switch (reason) {
    case FallbackReason::kNone:
      return "";
    case FallbackReason::kNotCalibrated:
      return "not-calibrated";
    case FallbackReason::kShortSequence:
      return "short-sequence";
    case FallbackReason::kLowRecall:
      return "low-recall";
    case FallbackReason::kUnsupportedMask:
      return "unsupported-mask";
    case FallbackReason::kUnsupportedShape:
      return "unsupported-shape";
    case FallbackReason::kKernelUnavailable:
      return "kernel-unavailable";
    case FallbackReason::kNumericGuard:
      return "numeric-guard";
    case FallbackReason::kPolicy:
      return "policy";
    case FallbackReason::kRequestOverride:
      return "request-override";
  }
  return "";
}

}  // namespace sparseserve
