#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "server/rpc/served_model.h"
#include "server/scheduling/request.h"
#include "server/scheduling/token_sink.h"
#include "sparseserve/v1/inference_service.pb.h"
#include "sparseserve/v1/model_service.pb.h"

namespace sparseserve {

// From the scheduler's words to the API's.

// Which parts of a target were met; nothing where the target has no such part
// or the answer nothing to measure: latency_targets_total counts the same.
struct TargetResult {
  std::optional<bool> time_to_first_token_met;
  std::optional<bool> time_per_output_token_met;
  std::optional<bool> total_met;
};
TargetResult Compare(const FinishReport& report, const LatencyTarget& target);

v1::OutputDelta ToOutputDelta(const OutputPiece& piece,
                              const Tokenizer& tokenizer);

v1::GenerationReport ToReport(const FinishReport& report,
                              const LatencyTarget& target,
                              const ServedModel& model,
                              const std::string& request_id);

v1::GenerateResponse ToGenerateResponse(const OutputPiece& output,
                                        v1::GenerationReport report,
                                        const Tokenizer& tokenizer);

v1::TokenizeResponse ToTokenizeResponse(const std::vector<TokenId>& tokens,
                                        const Tokenizer& tokenizer);

v1::Model ToModel(const ServedModel& model);

// Visited over allowed blocks; 1 where none were allowed.
double Density(const AttentionBlocks& blocks);

// In kebab-case; empty for kNone.
const char* FallbackName(FallbackReason reason);

}  // namespace sparseserve
