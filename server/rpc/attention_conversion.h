#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/pattern/pattern_spec.h"
#include "server/policy/named_plan.h"
#include "server/policy/pattern_decision.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/served_model.h"
#include "sparseserve/v1/attention_pattern.pb.h"
#include "sparseserve/v1/inference_service.pb.h"
#include "sparseserve/v1/model_service.pb.h"
#include "sparseserve/v1/server_config.pb.h"

namespace sparseserve {

// What callers and config files say of attention. Pure; any thread.

// The pattern that `proto` describes, or none: `errors` then has what is wrong
// with the field `field`.
std::optional<PatternSpec> ConvertPattern(std::string_view field,
                                          const v1::AttentionPattern& proto,
                                          FieldErrors& errors);

// Likewise the rules of a map. Layers and heads are checked once the model is
// known.
std::vector<HeadRule> ConvertMap(std::string_view field,
                                 const v1::PatternMap& map,
                                 FieldErrors& errors);

// Adds an error if `name` cannot be a plan's or is one of `taken`, which it
// then is.
void CheckPlanName(std::string_view field, const std::string& name,
                   std::set<std::string>& taken, FieldErrors& errors);

// What can be told of a choice without the model: the pattern, or none where it
// names a plan or leaves the choice to the server.
std::optional<PatternSpec> CheckChoice(const v1::AttentionChoice& choice,
                                       FieldErrors& errors);

// The decision for a choice that passed CheckChoice(), which returned
// `pattern`. NOT_FOUND for a plan that the model has not, FAILED_PRECONDITION
// for a pattern that it may not run with.
absl::StatusOr<PatternDecision> DecideAttention(
    const v1::AttentionChoice& choice,
    const std::optional<PatternSpec>& pattern, const ServedModel& model);

// The plans of a config file. `errors` has those that cannot be, by the names
// of server_config.proto.
std::vector<PlanRule> ConvertPlans(const v1::ServerConfig& config,
                                   FieldErrors& errors);

// What GetModel says of one kind of pattern.
v1::SupportedPattern ToSupportedPattern(const PatternSpec& pattern);

}  // namespace sparseserve
