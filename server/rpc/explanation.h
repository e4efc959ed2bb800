#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "engine/profile/attention_profile.h"
#include "server/rpc/served_model.h"
#include "server/scheduling/token_sink.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// What ExplainAttention asks for besides a generation's options.
struct ExplanationOptions {
  std::vector<int32_t> queries;  // ascending; empty: the last token
  int32_t top_keys = 0;
};

// Most tokens of a prompt that can be explained, at most `max_prompt_tokens`.
int MaxExplainedTokens(const ModelInfo& model, int max_prompt_tokens);

// UNIMPLEMENTED if the server does not explain, INVALID_ARGUMENT naming every
// field that must not be given or is out of its range. Leaves the generation's
// own fields and all that depends on the prompt to others.
absl::StatusOr<ExplanationOptions> CheckExplanation(
    const v1::ExplainAttentionRequest& request, const ServedModel& model);

// What runs a prompt and draws no more than the token that ends it.
v1::GenerateOptions OptionsOfRun(const v1::GenerateOptions& options);

// Makes profiles, of which one lives at a time: each can take as much memory as
// thousands of requests. Thread-safe.
class ExplanationDesk {
 public:
  // UNAVAILABLE while the last one lives; INVALID_ARGUMENT if the prompt is too
  // long or lacks a query, before anything is allocated.
  absl::StatusOr<std::shared_ptr<AttentionProfile>> MakeProfile(
      ExplanationOptions options, int prompt_tokens, const ServedModel& model);

 private:
  Mutex mu_;
  std::weak_ptr<AttentionProfile> latest_ ABSL_GUARDED_BY(mu_);
};

// The answer for a prompt that has run; `report` is its run's. Takes
// milliseconds.
v1::ExplainAttentionResponse ToExplanation(const AttentionProfile& profile,
                                           const std::vector<TokenId>& prompt,
                                           v1::GenerationReport report,
                                           const Tokenizer& tokenizer);

}  // namespace sparseserve
