#pragma once

#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "server/rpc/field_errors.h"
#include "server/scheduling/request.h"
#include "sparseserve/v1/inference_service.pb.h"

// What a request asks of time: from its fields, from gateways' metadata, from
// the server's config.

namespace sparseserve {

// By GenerateOptions.priority.
using DefaultTargets = absl::flat_hash_map<int, LatencyTarget>;

inline constexpr char kFirstTokenKey[] = "x-llm-d-slo-ttft-ms";
inline constexpr char kOutputTokenKey[] = "x-llm-d-slo-tpot-ms";

// `field` is the path of `target`. Errors name what is out of range.
LatencyTarget ConvertTarget(std::string_view field,
                            const v1::LatencyTarget& target,
                            FieldErrors& errors);

// The metadata's values, empty where absent: milliseconds with an optional
// fraction, in the ranges of LatencyTarget.
LatencyTarget TargetOfMetadata(std::string_view first_token_ms,
                               std::string_view output_token_ms,
                               FieldErrors& errors);

// What counts: what the request names; then what the metadata names; a request
// with neither has its priority's default.
LatencyTarget SettleTarget(const LatencyTarget& named,
                           const LatencyTarget& metadata,
                           const DefaultTargets& defaults, int priority);

}  // namespace sparseserve
